"""Guard: counts NaN and Inf on the device, without waiting for it, and says when enough is enough.

A bad step is skipped by the optimizer itself (its ``found_inf``), so weights stay finite however
late the host looks. The looks come at fixed steps, never by the clock: a resumed run must take the
same decisions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class Guard:
    """Counters of bad steps, on the device."""

    tolerate: int
    streak: torch.Tensor
    """Bad steps in a row, up to now."""
    longest: torch.Tensor
    """The longest streak since the last look."""
    total: torch.Tensor
    """Bad steps of the run."""
    reported: int = 0
    rollbacks: int = 0

    @classmethod
    def on(cls, device: torch.device, tolerate: int) -> Guard:
        """Return a guard that has seen nothing."""
        streak, longest, total = (
            torch.zeros((), dtype=torch.int64, device=device) for _ in range(3)
        )
        return cls(tolerate, streak, longest, total)

    def record(self, bad: torch.Tensor) -> None:
        """Count one step; `bad` is a boolean scalar on the device."""
        self.streak.add_(1).mul_(bad)
        torch.maximum(self.longest, self.streak, out=self.longest)
        self.total.add_(bad)

    def look(self) -> tuple[int, bool]:
        """Return how many bad steps came since the last look, and whether the policy has to act.

        Waits for the device.
        """
        total = int(self.total.item())
        new, self.reported = total - self.reported, total
        tripped = int(self.longest.item()) > self.tolerate
        self.longest.copy_(self.streak)
        return new, tripped

    def state_dict(self) -> dict[str, int]:
        """Return the counters."""
        return {
            "streak": int(self.streak.item()),
            "total": int(self.total.item()),
            "reported": self.reported,
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go back to saved counters."""
        self.streak.fill_(state["streak"])
        self.longest.fill_(state["streak"])
        self.total.fill_(state["total"])
        self.reported, self.rollbacks = state["reported"], state["rollbacks"]
