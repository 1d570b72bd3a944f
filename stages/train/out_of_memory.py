"""Out of memory: the micro-batch halves, and the same batch is tried again, as if it were new.

    gradients = Halving(make=micro_batches, ...)     # 1 x 64 -> 2 x 32 -> 4 x 16 -> ... -> 64 x 1

The mini-batch, and so the gradient's mean and the learning rate, stay as they are; only how many
images are in memory at once changes. What a failed attempt left behind is taken back: gradients,
statistics of batch norms, and what was drawn of the random streams.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

import torch

from pipeline.device import Device
from pipeline.errors import StageFailed
from pipeline.events import EventLog
from stages.augment.loader import Batch
from stages.train.gradients import Gradients
from stages.train.statistics import Statistics

_LIBC = ctypes.CDLL(None)
_SIGNS = ("can't allocate memory", "out of memory", "bad_alloc", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in said for sign in _SIGNS)


class HalvingState(TypedDict):
    """What a checkpoint keeps, so that a resumed run splits its batches in the same way."""

    micro_batches: int


@dataclass
class Halving:
    """Gradients in micro-batches that halve when memory runs out."""

    make: Callable[[int], Gradients]
    """Returns what computes a gradient in so many micro-batches."""
    weights: list[torch.nn.Parameter]
    statistics: Statistics
    """As the learner remembered them at the start of the step."""
    device: Device
    events: EventLog
    may_halve: bool = True
    micro_batches: int = 1
    _gradients: Gradients = field(init=False)

    def __post_init__(self) -> None:
        self._gradients = self.make(self.micro_batches)

    def backward(self, batch: Batch, scaler: torch.amp.GradScaler, step: int) -> torch.Tensor:
        """Add the gradient of the scaled mean loss, in as many pieces as memory demands.

        Raises:
            StageFailed: not even a single image fits.
        """
        random_state = _random_state(self.device)
        at_first, size = self.micro_batches, len(batch.targets)
        while True:
            try:
                loss = self._gradients.backward(batch, scaler, step)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error).strip()
            # Only here, past the handler, are the frames gone that held the activations.
            if not self.may_halve or self.micro_batches >= size:
                raise StageFailed(self._hopeless(size, step, said))
            self._halve(size, random_state)
        if self.micro_batches != at_first:
            self._tell(at_first, size, step)
        return loss

    def close(self) -> None:
        """Free what the present way of computing holds."""
        self._gradients.close()

    def state_dict(self) -> HalvingState:
        """Return how many micro-batches a batch is split into."""
        return {"micro_batches": self.micro_batches}

    def load_state_dict(self, state: HalvingState) -> None:
        """Split at least as often as then."""
        if state["micro_batches"] > self.micro_batches:
            self._split(state["micro_batches"])

    def _halve(self, size: int, random_state: torch.Tensor) -> None:
        """Take everything back that the attempt did, and split twice as often."""
        for weight in self.weights:
            weight.grad = None
        self.statistics.restore()
        _set_random_state(self.device, random_state)
        self._split(min(2 * self.micro_batches, size))
        _give_back(self.device)

    def _split(self, micro_batches: int) -> None:
        self._gradients.close()
        self.micro_batches = micro_batches
        self._gradients = self.make(micro_batches)

    def _hopeless(self, size: int, step: int, said: str) -> str:
        at_once = -(-size // self.micro_batches)
        images = "a single image" if at_once == 1 else f"{at_once} images"
        fewer = f"parallel: {{micro_batches: {2 * self.micro_batches}}}, " if at_once > 1 else ""
        return (
            f"out of memory at step {step + 1} with {images} at a time "
            f"({said.splitlines()[0] if said else 'no more is known'}). Use {fewer}a smaller model "
            "or augment.size, precision: bf16, or ema: false."
        )

    def _tell(self, before: int, size: int, step: int) -> None:
        old, new = -(-size // before), -(-size // self.micro_batches)
        self.events.warning(
            f"train: out of memory at step {step + 1} with {old} images at once; the batch of "
            f"{size} is computed in {self.micro_batches} micro-batches of at most {new} from here "
            f"on. parallel: {{micro_batches: {self.micro_batches}}} does so from the start."
        )
        self.events.emit(
            "out of memory", step=step, micro_batches=self.micro_batches, micro_batch=new
        )


@dataclass
class Answering:
    """A forward pass without gradients, over as many images at once as memory holds."""

    module: torch.nn.Module
    device: Device
    parts: int = 1

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch.

        Raises:
            StageFailed: not even a single image fits.
        """
        while True:
            try:
                return torch.cat([self.module(part) for part in images.chunk(self.parts)])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error).strip()
            if self.parts >= len(images):
                raise StageFailed(
                    f"out of memory while a single image was evaluated ({said}). Use a smaller "
                    "model or augment.size."
                )
            self.parts *= 2
            _give_back(self.device)


def _give_back(device: Device) -> None:
    """Free what failed passes have left."""
    gc.collect()
    if device.is_cuda:
        torch.cuda.empty_cache()
    elif hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)  # glibc keeps freed blocks, in pieces that no new tensor fits


def _random_state(device: Device) -> torch.Tensor:
    if device.is_cuda:
        return torch.cuda.get_rng_state(device.index)
    return torch.get_rng_state()


def _set_random_state(device: Device, state: torch.Tensor) -> None:
    if device.is_cuda:
        torch.cuda.set_rng_state(state, device.index)
    else:
        torch.set_rng_state(state)
