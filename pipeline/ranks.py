"""Ranks: several processes that run the same command, of which the first does the talking.

Under ``torchrun`` every process runs the whole command line. Rank 0 runs the chain as always; the
others follow: they wait until a stage calls them, work in that stage, and leave with rank 0's exit
code. They meet in the run folder, which all of them see:

    runs/NAME/.ranks/orders.json      rank 0: who is meant, the stages called so far, the exit code
    runs/NAME/.ranks/rank-1.json      rank 1: who it is, and how many orders it has taken

Each side names itself by a word drawn at its start, and takes nothing that is not addressed to
that word, so that files left by an earlier attempt mean nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import StageFailed
from pipeline.files import write_atomic
from pipeline.interrupt import StopFlag

RANKS_FOLDER = ".ranks"
_POLL_S = 0.05
_BEAT_S = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1

    @property
    def follows(self) -> bool:
        """Whether another process runs the chain."""
        return self.rank > 0


def place_from_environment() -> Place:
    """Return the place that a launcher gave this process, or the only one."""
    try:
        return Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    except (KeyError, ValueError):
        return Place()


@dataclass
class Leader:
    """Rank 0's side: calls the others into a stage, and lets them go at the end."""

    folder: Path
    place: Place
    patience_s: float = 300.0
    """How long to wait until all the others have come."""
    _word: str = field(default_factory=lambda: secrets.token_hex(8))
    _orders: list[str] = field(default_factory=list)
    _exit_code: int | None = None
    _beats: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Give signs of life until the block ends."""
        self.folder.mkdir(exist_ok=True)
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT_S):
                self._publish()

        thread = threading.Thread(target=beat, daemon=True, name="ranks")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def call(self, stage: str, stop: StopFlag) -> None:
        """Call all the others into a stage; return when they have come.

        Raises:
            StageFailed: one of them did not come.
            Interrupted: a stop was asked for while waiting.
        """
        self._orders.append(stage)
        missing = self._wait(self.patience_s, stop)
        if missing:
            raise StageFailed(
                f"rank {', '.join(map(str, missing))} of {self.place.world} did not come within "
                f"{self.patience_s:.0f} s. All processes need the same run folder (a shared file "
                "system where they are on several hosts); look at their output."
            )

    def dismiss(self, exit_code: int) -> None:
        """Let the others leave with an exit code; whoever is gone is not waited for."""
        self._exit_code = exit_code
        self._orders.append("")
        self._wait(_BEAT_S, StopFlag())

    def _wait(self, patience_s: float, stop: StopFlag) -> list[int]:
        end = time.monotonic() + patience_s
        while missing := self._publish():
            if time.monotonic() > end:
                break
            stop.check()
            time.sleep(_POLL_S)
        return missing

    def _publish(self) -> list[int]:
        """Address the orders to whoever is there; return the ranks that have not taken them."""
        with self._lock:
            others = {rank: _read(self.folder / _name(rank)) for rank in range(1, self.place.world)}
            self._beats += 1
            document = {
                "from": self._word,
                "to": {str(rank): other.get("word") for rank, other in others.items()},
                "orders": self._orders,
                "exit_code": self._exit_code,
                "beats": self._beats,
            }
            write_atomic(self.folder / "orders.json", json.dumps(document))
        return [
            rank
            for rank, other in others.items()
            if other.get("leader") != self._word or other.get("taken") != len(self._orders)
        ]


@dataclass
class Follower:
    """The side of every other rank: waits for the next order."""

    folder: Path
    place: Place
    patience_s: float = 60.0
    """Without a sign of life for this long, rank 0 is taken for dead."""
    first_patience_s: float = 300.0
    """How long to wait for the first one."""
    _word: str = field(default_factory=lambda: secrets.token_hex(8))
    _leader: str = ""
    _taken: int = 0

    def next_order(self, stop: StopFlag) -> str | int:
        """Return the name of the stage to work in, or the exit code to leave with.

        Raises:
            StageFailed: rank 0 gives no sign of life.
            Interrupted: a stop was asked for.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tell()
        seen, seen_at = -1, time.monotonic()
        while True:
            document = _read(self.folder / "orders.json")
            if self._is_addressed(document):
                orders, beats = document["orders"], document["beats"]
                assert isinstance(orders, list)
                assert isinstance(beats, int)
                if len(orders) > self._taken:
                    order, self._taken = str(orders[self._taken]), self._taken + 1
                    self._leader = str(document["from"])
                    self._tell()
                    return order or int(str(document["exit_code"]))
                if beats != seen:
                    seen, seen_at = beats, time.monotonic()
            self._check(seen, time.monotonic() - seen_at)
            stop.check()
            time.sleep(_POLL_S)

    def _is_addressed(self, document: dict[str, object]) -> bool:
        to = document.get("to")
        if not isinstance(to, dict) or to.get(str(self.place.rank)) != self._word:
            return False
        return self._leader in ("", document.get("from"))

    def _check(self, seen: int, silent_s: float) -> None:
        patience_s = self.first_patience_s if seen < 0 else self.patience_s
        if silent_s > patience_s:
            raise StageFailed(
                f"rank {self.place.rank}: no sign of life from rank 0 in {self.folder} for "
                f"{patience_s:.0f} s. All processes need the same run folder (a shared file system "
                "where they are on several hosts); look at rank 0's output."
            )

    def _tell(self) -> None:
        document = {"word": self._word, "leader": self._leader, "taken": self._taken}
        write_atomic(self.folder / _name(self.place.rank), json.dumps(document))


def _name(rank: int) -> str:
    return f"rank-{rank}.json"


def _read(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(document) if isinstance(document, dict) else {}
