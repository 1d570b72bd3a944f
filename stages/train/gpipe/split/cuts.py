"""Cuts: where a traced network may be cut, and at which of these places it is.

step    0 input   1 conv   2 conv   3 add(1, 2)   4 linear
cut before 3 carries the values of 1 and 2, a cut before 4 carries one tensor
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import fx

from stages.train.gpipe.split.flow import Flow, Step

WIDEST = 16
"""At most this many tensors cross a cut."""
COARSE = 1 / 8
"""A block with more than this share of all parameters, or of all work, is cut through tuples."""
FINE = 1 / 32
"""The least share of a block that comes from cutting through tuples."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A place between two steps."""

    before: int
    """The number of the first step behind the cut."""
    carry: tuple[fx.Node, ...]
    """The tensors that cross it, in the order in which they came to be."""
    sizes: dict[fx.Node, int | None]
    """The sizes that cross it behind them, as one empty tensor, and how long each is."""
    problem: str
    """Why the network must not be cut here; empty if it may be."""

    @property
    def width(self) -> int:
        """How many tensors cross; 0 when nothing may be cut here."""
        return 0 if self.problem else len(self.carry) + bool(self.sizes)


def places(flow: Flow) -> tuple[Cut, ...]:
    """Return one cut per step, from before step 0 (the input) to behind the last."""
    number = {step.node: i for i, step in enumerate(flow.steps)}
    carries: list[list[Step]] = [[] for _ in range(len(flow.steps) + 1)]
    for i, step in enumerate(flow.steps):
        users = [number.get(user, len(flow.steps)) for user in step.node.users]
        for before in range(i + 1, max(users, default=i) + 1):
            carries[before].append(step)
    tied = _tied(flow.steps)
    return tuple(
        Cut(
            before=i,
            carry=tuple(step.node for step in carry if step.value != "size"),
            sizes={step.node: step.length for step in carry if step.value == "size"},
            problem=_problem(flow, i, carry) or tied.get(i, ""),
        )
        for i, carry in enumerate(carries)
    )


def _problem(flow: Flow, before: int, carry: Sequence[Step]) -> str:
    if all(step.value != "tensor" for step in carry):
        return "what lies behind does not depend on what lies before"
    for step in carry:
        if step.value == "other":
            return f"the value '{step.node}' that is no tensor is needed on both sides"
        for storage in step.storages:
            last = flow.written.get(storage, -1)
            if last >= before:
                # Across a cut it is a leaf, which autograd does not let anyone overwrite.
                return f"'{step.node}' is overwritten in place by '{flow.steps[last].node}'"
    return ""


def _tied(steps: Sequence[Step]) -> dict[int, str]:
    """Return, by place, which parameter is used on both sides of it."""
    first: dict[int, tuple[int, str]] = {}
    problems: dict[int, str] = {}
    for i, step in enumerate(steps):
        for name, tensor in step.state:
            start, first_name = first.setdefault(id(tensor), (i, name))
            for before in range(start + 1, i + 1):
                problems.setdefault(before, f"'{first_name}' is used again at step '{step.node}'")
    return problems


def choose(flow: Flow, cuts: Sequence[Cut]) -> tuple[Cut, ...]:
    """Return the cuts to make: both ends, and between them where one tensor is live.

    What would be a coarse block that way is cut through tuples, no wider than needed.
    Blocks without parameters are left with the block before them.
    """
    weigh = _Scale(flow.steps)
    ends = [cuts[1], cuts[-1]]
    single = [cut for cut in cuts[2:-1] if cut.width == 1]
    chosen = [ends[0]]
    for start, stop in pairwise([ends[0], *single, ends[1]]):
        chosen += [*_through_tuples(cuts[start.before + 1 : stop.before], start, stop, weigh), stop]
    return _with_parameters(chosen, weigh)


def _through_tuples(inside: Sequence[Cut], start: Cut, stop: Cut, weigh: _Scale) -> list[Cut]:
    if weigh(start, stop) <= COARSE:
        return []
    best: list[Cut] = []
    heaviest = weigh(start, stop)
    for width in range(1, WIDEST + 1):
        found = [cut for cut in inside if 1 <= cut.width <= width]
        worst = max(weigh(a, b) for a, b in pairwise([start, *found, stop]))
        if worst < heaviest:
            best, heaviest = found, worst
        if heaviest <= COARSE:
            break
    kept = [start]
    for cut in best:
        if weigh(kept[-1], cut) >= FINE <= weigh(cut, stop):
            kept.append(cut)
    return kept[1:]


def _with_parameters(cuts: Sequence[Cut], weigh: _Scale) -> tuple[Cut, ...]:
    first, *inner, last = cuts
    kept = [first]
    for cut, following in pairwise([*inner, last]):
        if weigh.parameters(kept[-1], cut) and weigh.parameters(cut, following):
            kept.append(cut)
    return (*kept, last)


class _Scale:
    """Weighs what lies between two cuts."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._parameters = [0]
        self._flops = [0]
        seen: set[int] = set()
        for step in steps:
            new = {id(t): t.numel() for _, t in step.state if id(t) not in seen}
            seen |= new.keys()
            self._parameters.append(self._parameters[-1] + sum(new.values()))
            self._flops.append(self._flops[-1] + step.flops)

    def parameters(self, start: Cut, stop: Cut) -> int:
        """Return how many parameters lie between two cuts."""
        return self._parameters[stop.before] - self._parameters[start.before]

    def __call__(self, start: Cut, stop: Cut) -> float:
        """Return the share of parameters or of work between two cuts, whichever is more."""
        flops = self._flops[stop.before] - self._flops[start.before]
        return max(
            self.parameters(start, stop) / max(self._parameters[-1], 1),
            flops / max(self._flops[-1], 1),
        )
