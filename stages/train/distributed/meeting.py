"""Meeting: the ranks of one attempt find each other in a store that outlives attempts.

torch's elastic agent keeps one store, with the same keys, over all its restarts. A process that is
started again may so read the address of a peer that is dead, and wait for nobody. Here all ranks of
an attempt agree on a name that no attempt had before, and keep to keys under it.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store

_POLL_S = 0.02


def meet(store: Store, rank: int, world: int, timeout: timedelta) -> Store:
    """Return a store that the ranks of this attempt share with nobody else.

    The first rank chooses the name. Each other one answers with a word of its own, and takes the
    name once that very word is confirmed: whatever lies in the store may be from the dead.

    Raises:
        TimeoutError: a rank did not come.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    name = _choose(store, world, deadline) if rank == 0 else _hear(store, rank, deadline)
    return PrefixStore(name, store)


def _choose(store: Store, world: int, deadline: float) -> str:
    name = uuid.uuid4().hex
    store.set("name", name)
    for rank in range(1, world):
        while not (answer := _read(store, f"answer {rank}")).startswith(name):
            _wait(deadline, f"rank {rank}")
        store.set(f"confirmed {answer}", "yes")
    return name


def _hear(store: Store, rank: int, deadline: float) -> str:
    word, heard = uuid.uuid4().hex, ""
    while not (heard and store.check([f"confirmed {heard} {word}"])):
        name = _read(store, "name")
        if name != heard:
            store.set(f"answer {rank}", f"{name} {word}")
            heard = name
        _wait(deadline, "the first rank")
    return heard


def _read(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _wait(deadline: float, who: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{who} did not come")
    time.sleep(_POLL_S)
