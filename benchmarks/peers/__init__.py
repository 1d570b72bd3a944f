"""Peers: other training loops over the same network, batches, optimizer and precision.

They are optional: `pip install 'dlpipe[peers]'`. Each is imported only when it is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

from benchmarks.networks import Network
from benchmarks.trainees import Trainee
from stages.augment.loader import Batch

PEERS = {
    "Accelerate": ("accelerate", "accelerate_loop", False),
    "Lightning, no bar, no logger": ("lightning", "lightning_loop", False),
    "Lightning": ("lightning", "lightning_loop", True),
    "fastai, no bar": ("fastai", "fastai_loop", False),
    "fastai": ("fastai", "fastai_loop", True),
}
"""Package, module of this package, and whether it shows its progress as it does by default."""


class _PeerModule(Protocol):
    def open_peer(self, network: Network, batches: Sequence[Batch], *, shows: bool) -> Trainee: ...


def missing_packages() -> list[str]:
    """Return which peers cannot be measured here."""
    packages = {package for package, _, _ in PEERS.values()}
    return sorted(package for package in packages if find_spec(package) is None)


def open_peers(network: Network, batches: Sequence[Batch]) -> dict[str, Trainee]:
    """Set up every peer that is installed."""
    missing = missing_packages()
    peers: dict[str, Trainee] = {}
    for name, (package, module, shows) in PEERS.items():
        if package not in missing:
            peer = cast("_PeerModule", import_module(f"{__name__}.{module}"))
            peers[name] = peer.open_peer(network, batches, shows=shows)
    return peers
