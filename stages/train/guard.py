"""Guard: notes bad steps on the device, without waiting for it, and says when enough is enough.

    flag = guard.flag()                     # a zero on the device, one for each step
    mark_if_bad(flag, [*gradients, loss])   # becomes one if anything is NaN or infinite
    optimizer.found_inf = flag              # a fused optimizer skips the step by itself

Weights stay finite however late the host looks. The looks come at fixed steps, never by the clock:
a resumed run must take the same decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch

_FLAGS = 1024
"""Steps after which the guard counts by itself, should nobody have looked by then."""


def mark_if_bad(flag: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    """Set a flag to one if any value is NaN or infinite, in one kernel; else leave it alone.

    It is the scaler's kernel, with nothing to unscale: exact, where a norm may overflow by itself.
    """
    torch._amp_foreach_non_finite_check_and_unscale_(tensors, flag, _one(flag.device))


@cache
def _one(device: torch.device) -> torch.Tensor:
    return torch.ones((), device=device)


@dataclass
class Guard:
    """Counts bad steps. Steps leave flags on the device; only a look brings them to the host."""

    device: torch.device
    tolerate: int
    streak: int = 0
    """Bad steps in a row, up to the last count."""
    longest: int = 0
    """The longest streak since the last look."""
    counted: int = 0
    reported: int = 0
    rollbacks: int = 0
    _used: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._all_flags = torch.zeros(_FLAGS, device=self.device)
        self._flags = self._all_flags.unbind()

    def flag(self) -> torch.Tensor:
        """Return the flag of the next step: a float zero on the device, one to whom it is bad."""
        if self._used == len(self._flags):
            self._count()
        flag = self._flags[self._used]
        self._used += 1
        return flag

    @property
    def total(self) -> int:
        """Bad steps of the run; waits for the device."""
        self._count()
        return self.counted

    def look(self) -> tuple[int, bool]:
        """Return how many bad steps came since the last look, and whether the policy has to act.

        Waits for the device.
        """
        new, self.reported = self.total - self.reported, self.counted
        tripped = self.longest > self.tolerate
        self.longest = self.streak
        return new, tripped

    def state_dict(self) -> dict[str, int]:
        """Return the counters."""
        return {
            "total": self.total,
            "streak": self.streak,
            "reported": self.reported,
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go back to saved counters."""
        self._count()
        self.streak = self.longest = state["streak"]
        self.counted = state["total"]
        self.reported, self.rollbacks = state["reported"], state["rollbacks"]

    def _count(self) -> None:
        """Take over the flags of the steps since the last count."""
        if not self._used:
            return
        for bad in self._all_flags[: self._used].tolist():
            self.streak = self.streak + 1 if bad else 0
            self.longest = max(self.longest, self.streak)
            self.counted += bool(bad)
        self._all_flags.zero_()
        self._used = 0
