"""Rate search: Smith's range test (arXiv 1506.01186, section 3.3) finds a learning rate.

A copy of the network learns while the rate grows from step to step; where its loss falls fastest is
the rate to take, and long before it diverges. The network itself, its optimizer, the random streams
and the training loader see nothing of it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from timm.scheduler.scheduler import Scheduler

from pipeline.context import Context
from pipeline.errors import StageFailed
from pipeline.files import write_atomic
from pipeline.report.blocks import LineChart, Series
from stages.augment.loader import Batch, Loader
from stages.train.config import TrainConfig
from stages.train.freeze import plan_freezing
from stages.train.learner import Learner, build_learner
from stages.train.models.classifier import Classifier
from stages.train.precision import Precision
from stages.train.reproducible import random_state_kept
from stages.train.schedule import Schedule

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 100
_SMOOTHING = 0.9
_DIVERGED = 4.0
"""Times its lowest value so far, at which the loss is lost."""
_HALF_WINDOW = 7
"""Steps before and after a rate that its slope is measured over: 15 in all, about a decade."""
_FILE = "rate_search.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RateSearch:
    """What a search found, and the curve that shows it."""

    rate: float
    rates: list[float]
    losses: list[float]
    """Smoothed."""

    def chart(self) -> LineChart:
        """Return the curve for the report."""
        exponents = tuple(float(np.log10(rate)) for rate in self.rates)
        chosen = float(np.log10(self.rate))
        return LineChart(
            title=f"Search of the learning rate: {self.rate:.2g}",
            x_label="log10 of the rate",
            y_label="smoothed loss",
            series=(
                Series(name="loss", x=exponents, y=tuple(self.losses)),
                Series(name="chosen", x=(chosen,) * 2, y=(min(self.losses), max(self.losses))),
            ),
        )


class Sweep(Scheduler):
    """Grow the rate by the same factor at each step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=False)

    def _get_lr(self, t: int) -> list[float]:
        return [LOWEST * (HIGHEST / LOWEST) ** (t / (STEPS - 1)) for _ in self.base_values]


def search_rate(
    module: Classifier,
    config: TrainConfig,
    precision: Precision,
    loader: Loader,
    ctx: Context,
) -> RateSearch:
    """Return what a search finds; one that this stage has made before is not made again.

    Args:
        module: on its device; a copy of it learns.
        config: of training; its optimizer's rate does not matter.
        precision: of training.
        loader: of the train split, for this search alone.
        ctx: of the stage; the curve is kept in its folder.

    Raises:
        StageFailed: the loss falls at no rate.
    """
    found = load_search(ctx.dir)
    if found is not None:
        return found
    with random_state_kept():
        rates, losses = _sweep(_learner(module, config, precision, ctx), loader, ctx)
    found = RateSearch(rate=steepest(rates, losses), rates=rates, losses=losses)
    write_atomic(ctx.dir / _FILE, json.dumps(asdict(found)))
    return found


def load_search(folder: Path) -> RateSearch | None:
    """Return the search that was made in a stage's folder, if one was."""
    path = folder / _FILE
    return RateSearch(**json.loads(path.read_text())) if path.is_file() else None


def steepest(rates: list[float], losses: list[float]) -> float:
    """Return the rate at which the loss falls fastest by the logarithm of the rate.

    Raises:
        StageFailed: it falls nowhere.
    """
    lowest = int(np.argmin(losses)) + 1
    middles = range(_HALF_WINDOW, lowest - _HALF_WINDOW)
    x, y = np.log(rates), np.array(losses)
    if middles:
        windows = [slice(m - _HALF_WINDOW, m + _HALF_WINDOW + 1) for m in middles]
        slopes = [float(np.polyfit(x[window], y[window], 1)[0]) for window in windows]
        if min(slopes) < 0:
            return rates[middles[int(np.argmin(slopes))]]
    raise StageFailed(
        f"stages.train.optimizer.lr: auto: the loss fell at no rate from {LOWEST:g} to "
        f"{rates[-1]:.2g}. Look at the data and the model, or set lr by hand."
    )


def _learner(
    module: Classifier, config: TrainConfig, precision: Precision, ctx: Context
) -> Learner:
    double = copy.deepcopy(module)
    plain = config.model_copy(
        update={
            "optimizer": config.optimizer.model_copy(update={"lr": LOWEST}),
            "ema": False,
            "compile": False,
        }
    )
    learner = build_learner(double, plain, precision, ctx.device, STEPS, events=ctx.events)
    learner.freezing = plan_freezing(double, config.freeze, config.unfreeze_after)
    learner.begin_epoch(0)
    learner.schedule = Schedule(learner.optimizer, Sweep(learner.optimizer))
    return learner


def _sweep(learner: Learner, loader: Loader, ctx: Context) -> tuple[list[float], list[float]]:
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    with ctx.events.progress("rate search", total=STEPS) as bar:
        for step, batch in zip(range(STEPS), _endless(loader), strict=False):
            ctx.stop.check()
            learner.step(batch)
            bar.advance()
            average = _SMOOTHING * average + (1 - _SMOOTHING) * learner.take_loss()
            loss = average / (1 - _SMOOTHING ** (step + 1))
            _, not_finite = learner.look()
            if not_finite or (losses and loss > _DIVERGED * min(losses)):
                break
            rates.append(learner.schedule.lr)
            losses.append(loss)
    return rates, losses


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader
