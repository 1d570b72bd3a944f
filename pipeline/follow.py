"""Follow: what the processes of a run do that do not run its chain.

They wait to be called, work in the stage that called them, and leave with the exit code of rank 0.
"""

from __future__ import annotations

from pipeline.check import resolve_chain_device
from pipeline.config import ChainConfig, StageEntry
from pipeline.context import Context
from pipeline.errors import ConfigError, DlpipeError
from pipeline.events import EventLog
from pipeline.inputs import load_inputs
from pipeline.interrupt import StopFlag, catch_signals
from pipeline.ranks import RANKS_FOLDER, Follower, Place, place_from_environment
from pipeline.run_folder import RunFolder
from pipeline.stage import Joins


def place_in(chain: ChainConfig) -> Place:
    """Return which of the processes of a run this one is.

    A launcher's environment decides; without one, a stage may know that the same command was
    started on several hosts.

    Raises:
        ConfigError: a stage names hosts, and this is none of them.
    """
    place = place_from_environment()
    if place.world == 1:
        for entry in chain.stages:
            stage = entry.build()
            if isinstance(stage, Joins) and (own := stage.place()).world > 1:
                return own
    return place


def follow(chain: ChainConfig, folder: RunFolder, place: Place) -> int:
    """Work wherever rank 0 calls; return its exit code.

    Raises:
        StageFailed: rank 0 gives no sign of life.
        Interrupted: a signal stopped it.
        DlpipeError: the work failed; the message names the stage and the rank.
    """
    device, stop = resolve_chain_device(chain), StopFlag()
    meeting = Follower(folder.path / RANKS_FOLDER, place)
    with catch_signals(stop):
        while True:
            order = meeting.next_order(stop)
            if isinstance(order, int):
                return order
            entry, stage = _called(order, chain, place)
            context = Context(
                dir=folder.partial(entry.name).absolute(),
                device=device,
                seed=chain.settings.seed,
                artifacts=load_inputs(chain, entry, folder),
                events=EventLog(stage=entry.name),
                stop=stop,
            )
            try:
                stage.follow(context)
            except DlpipeError as error:
                error.args = (f"stages.{entry.name}: rank {place.rank}: {error}",)
                raise


def _called(name: str, chain: ChainConfig, place: Place) -> tuple[StageEntry, Joins]:
    for entry in chain.stages:
        stage = entry.build()
        if entry.name == name and isinstance(stage, Joins):
            return entry, stage
    raise ConfigError(
        f"rank {place.rank}: rank 0 is in the stage {name!r}, which this process cannot join. "
        "Give all processes the same YAML file and overrides."
    )
