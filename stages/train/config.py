"""TrainConfig: what the YAML may say under ``train:``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.stage import StageConfig
from stages.train.fff.config import FffConfig
from stages.train.finetune_config import Freeze
from stages.train.parallel_config import LaunchConfig, ParallelConfig

Option = str | int | float | bool


class OptimizerConfig(StageConfig):
    """Which optimizer, and how fast it goes."""

    name: str = "adamw"
    """Any of timm's: ``sgd`` (Nesterov), ``momentum``, ``adamw``, ``lamb``, ``lion``, ``muon``."""
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = 1e-3
    """Peak learning rate; the schedule scales it. ``auto`` searches one in up to 100 steps of a
    copy of the network, and shows the curve in the report."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Applied to matrices and kernels, not to biases and norms."""
    layer_decay: float | None = Field(default=None, gt=0, lt=1)
    """Learning rate of a layer as a share of the next one's, for fine-tuning: 0.75 lets early
    layers move little; timm's models know their layers."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """For optimizers that have a momentum; timm's default (0.9) when left out."""
    betas: list[Annotated[float, Field(ge=0, lt=1)]] | None = Field(
        default=None, min_length=2, max_length=3
    )
    """For the Adam family; the optimizer's own default when left out."""


class ScheduleConfig(StageConfig):
    """How the learning rate moves over the run; stepped at every optimizer step."""

    name: Literal["cosine", "onecycle", "step", "poly", "constant"] = "cosine"
    """Shape after the warm-up; ``onecycle`` climbs in a line and falls in a line to ``min_lr``."""
    warmup_epochs: float = Field(default=1, ge=0)
    """Epochs of linear climb at the start; may be a fraction."""
    min_lr: float = Field(default=0.0, ge=0)
    """Learning rate at the end of ``cosine``, ``onecycle`` and ``poly``."""
    decay_epochs: float = Field(default=30, gt=0)
    """``step`` only: epochs between two cuts."""
    decay_rate: float = Field(default=0.1, gt=0)
    """``step``: factor of a cut. ``poly``: the power."""


class EmaConfig(StageConfig):
    """A moving average of the weights, evaluated beside the model itself."""

    decay: float = Field(default=0.999, gt=0, lt=1)
    """Share of the old average kept at each step, once warmed up."""
    warmup: bool = True
    """Start with a short memory that grows to `decay`; without it short runs average noise."""


class TargetConfig(StageConfig):
    """The accuracy at which training is done; also a gate of the run."""

    top1: float = Field(gt=0, le=1)
    """Share of the eval split answered correctly, 0 to 1."""


class CheckpointConfig(StageConfig):
    """When to save everything that an exact resume needs."""

    every_steps: int | None = Field(default=None, ge=1)
    """Save after this many steps; None: by time only."""
    every_seconds: float = Field(default=30, gt=0)
    """Save when this much time has passed since the last save."""
    keep: int = Field(default=2, ge=1)
    """How many to keep; a damaged newest one falls back to the one before."""


class GuardConfig(StageConfig):
    """What happens when the loss or a gradient is NaN or infinite."""

    on_nonfinite: Literal["stop", "rollback"] = "stop"
    """``stop`` the run, or go back to the last good checkpoint with a lower learning rate."""
    tolerate: int = Field(default=0, ge=0)
    """Bad steps in a row that are skipped (weights untouched) before the policy acts."""
    check_every: int = Field(default=10, ge=1)
    """Steps between two looks at the counters; a bad step changes no weights before the look."""
    lr_factor: float = Field(default=0.5, gt=0, lt=1)
    """``rollback`` only: what each rollback multiplies the learning rate by."""
    max_rollbacks: int = Field(default=3, ge=1)
    """``rollback`` only: give up after this many."""


class TrainConfig(StageConfig):
    """Everything about training that the YAML can say."""

    means: ClassVar[frozenset[str]] = frozenset({"parallel", "launch"})

    model: str = "resnet18"
    """A timm model by name, or your own factory as ``package.module:function``."""
    model_options: dict[str, Option] = Field(default_factory=dict)
    """Passed to the factory as keyword arguments, for instance ``{drop_path_rate: 0.1}``."""
    small_input: Literal["auto"] | bool = False
    """Replace a ResNet's 7x7/2 stem and max-pool by one 3x3/1 convolution, which keeps detail at
    about 16 times the computation; ``auto``: for images up to 64 px without pretrained weights."""
    fff: FffConfig | Literal[False] = False
    """Fast feedforward layers in place of a transformer's own; ``{}`` takes the defaults."""
    pretrained: str | Literal[False] = False
    """Weights to start from: a safetensors file, timm's or ours; ``auto``: timm's for this model
    where a cache of this machine holds them; ``download``: fetched otherwise; ``false``: none."""
    normalization: Literal["auto", "data", "pretrained"] = "auto"
    """Mean and spread that the model's first layer uses: ``pretrained``, those that the weights
    were trained with; ``data``, the data set's; ``auto``: the weights' where there are any."""
    freeze: Freeze = False
    """What does not learn: ``all_but_head``, a list of layers or patterns (``[conv1, "layer?.*"]``)
    or ``{until: layer3}``; norms in there keep their statistics too."""
    unfreeze_after: int | None = Field(default=None, ge=1)
    """Epochs after which what was frozen learns too; None: never."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp16_emulated"] = "auto"
    """Forward and backward precision; ``auto`` takes bf16 where the hardware has units for it.
    ``fp16`` is refused on a CPU without fp16 units, ten times slower than fp32 there;
    ``fp16_emulated`` is not."""
    epochs: int = Field(default=10, ge=1, le=100_000)
    """Passes over the training split, unless the target or `max_time` comes first."""
    max_time: float | None = Field(default=None, gt=0)
    """Seconds of training after which to stop at the next step; counted over resumed runs."""
    target: TargetConfig | None = None
    """Stop as soon as this is reached, for instance ``{top1: 0.97}``; a gate as well."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Which optimizer."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the learning rate moves."""
    ema: EmaConfig | Literal[False] = EmaConfig()
    """A moving average of the weights; ``false`` for none."""
    weights: Literal["best", "last", "ema"] = "best"
    """What is exported: the ``best`` of model and average over all epochs, the ``last`` step's,
    or the average (``ema``) at the last step."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread over all classes."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the whole gradient; longer ones are scaled down."""
    eval_every: int = Field(default=1, ge=1)
    """Epochs between two evaluations; the last epoch is always evaluated."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] | Literal["auto"] | None = None
    """Images of a mini-batch; None: the data set's. ``auto`` takes the smallest that is as fast as
    any and fits in memory, measured on a copy of the network."""
    eval_batch_size: int | None = Field(default=None, ge=1)
    """Defaults to the training batch size."""
    channels_last: Literal["auto"] | bool = "auto"
    """Memory layout; ``auto``: channels last for networks with 2-D convolutions."""
    compile: bool = False
    """torch.compile; pays on GPUs, gained nothing on CPUs."""
    deterministic: bool = True
    """Deterministic kernels, for bit-equal resume. On CUDA an operator that has none only warns."""
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """CPU threads of torch; ``auto`` leaves one core to the loader. Part of what makes a run
    bit-equal."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When to save."""
    guard: GuardConfig = GuardConfig()
    """NaN and Inf."""
    on_oom: Literal["halve", "fail"] = "halve"
    """What running out of memory in a step does: ``halve`` the micro-batch and try the same batch
    again, or ``fail``. One process only, or several without overlap: else all would have to."""
    parallel: ParallelConfig = ParallelConfig()
    """Micro-batches, pipeline stages, data replicas."""
    launch: LaunchConfig = LaunchConfig()
    """Processes and hosts that train together."""
    profile: Annotated[int, Field(ge=1, le=100)] | Literal[False] = False
    """Steps to record with torch's profiler, after three of warm-up: a trace for ui.perfetto.dev
    beside the weights, and the slowest operators in the report."""
    rehearsal: bool = True
    """Send the untrained model through all later stages before the first epoch."""
    tensorboard: bool = True
    """Write TensorBoard files when the package is installed."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.weights == "ema" and self.ema is False:
            raise ValueError(
                "weights: 'ema' needs the moving average, and ema is false. Set ema: {}, "
                "or use weights: 'best' or 'last'."
            )
        if self.freeze is not False and self.parallel.pipeline != 1:
            raise ValueError(
                f"freeze: works on whole networks, and parallel.pipeline is "
                f"{self.parallel.pipeline!r}. Set parallel.pipeline: 1, or freeze: false."
            )
        searched = {"optimizer.lr": self.optimizer.lr, "batch_size": self.batch_size}
        for key, value in searched.items():
            if value == "auto" and (self.parallel.is_pipelined or self.launch.world > 1):
                raise ValueError(
                    f"{key}: 'auto' is searched by one process on one device. Search it so "
                    "(--until train), then write the number that it reports."
                )
        if self.unfreeze_after is not None and self.freeze is False:
            raise ValueError(
                f"unfreeze_after: {self.unfreeze_after} has nothing to free, since freeze is "
                "false. Add freeze: all_but_head, or leave it out."
            )
        if self.normalization == "pretrained" and not self.pretrained:
            raise ValueError(
                "normalization: 'pretrained' needs weights to take it from, and pretrained is "
                "false. Set pretrained, or use normalization: data."
            )
        if self.fff and self.pretrained and not self.fff.convert:
            raise ValueError(
                "fff: makes new feedforward layers, and pretrained weights are of the old ones. "
                "Add fff.convert: {}, which teaches the new what the old do, or set pretrained: "
                "false."
            )
        if self.fff and self.fff.convert and not self.pretrained:
            raise ValueError(
                "fff.convert: teaches fast layers what trained ones do, and pretrained is false. "
                "Set pretrained to the weights of the dense network, or convert: false."
            )
        if self.fff and (self.fff.balance or self.fff.hardening) and self.parallel.is_pipelined:
            raise ValueError(
                "fff: balance and hardening add to the loss of the whole network, which a pipeline "
                "has in no one place. Set them to 0, or parallel.pipeline: 1."
            )
        if self.schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs: {self.schedule.warmup_epochs:g} is longer than the run "
                f"({self.epochs} epochs). Lower it, or raise epochs."
            )
        return self
