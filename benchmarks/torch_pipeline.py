"""torch.distributed.pipelining over gloo: two processes, each with a stage of the language model.

    python -m benchmarks.torch_pipeline STORE CUT      # stage 0, started by `TorchPipeline`

The process of the benchmark is the last stage, as with our engine; lines on stdin tell stage 0 what
to do.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn.functional import cross_entropy

from benchmarks.language_model import Layers, Shape, language_model, words_of

_TIMEOUT = timedelta(minutes=10)
_DONE = "done\n"


class Half:
    """One of two stages, for as many micro-batches as asked for."""

    def __init__(self, store: Path, rank: int, cut: int, shape: Shape) -> None:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=_TIMEOUT
        )
        layers = list(language_model(shape))
        self.module = Layers(*(layers[cut:] if rank else layers[:cut]))
        self._rank, self._batch = rank, words_of(shape)

    def prepare(self, micro_batches: int) -> None:
        """Set the number of micro-batches."""
        stage = PipelineStage(self.module, self._rank, 2, torch.device("cpu"))
        self._schedule = ScheduleGPipe(stage, micro_batches, loss_fn=cross_entropy)

    def step(self) -> torch.Tensor:
        """Compute the gradients of one mini-batch; returns the loss on the last stage."""
        self.module.zero_grad()
        if self._rank == 0:
            self._schedule.step(self._batch.inputs, return_outputs=False)
            return torch.zeros(())
        losses: list[torch.Tensor] = []
        self._schedule.step(target=self._batch.targets, losses=losses, return_outputs=False)
        return torch.stack(losses).mean().detach()


class TorchPipeline:
    """Both stages, as the process of the last one sees them."""

    def __init__(self, folder: Path, cut: int, shape: Shape) -> None:
        store = folder / "store"
        numbers = [shape.blocks, shape.width, shape.heads, shape.tokens, shape.words, shape.batch]
        command = [sys.executable, "-m", "benchmarks.torch_pipeline", str(store), str(cut)]
        self._other = subprocess.Popen(
            [*command, *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.last = Half(store, 1, cut, shape)

    def prepare(self, micro_batches: int) -> None:
        """Set the number of micro-batches on both stages."""
        self._tell(f"prepare {micro_batches}")
        self.last.prepare(micro_batches)

    def step(self) -> torch.Tensor:
        """Compute the gradients of one mini-batch on both stages; returns the loss."""
        self._tell("step")
        loss = self.last.step()
        # The other stage still has the last micro-batch to go back through.
        assert self._other.stdout is not None
        assert self._other.stdout.readline() == _DONE
        return loss

    def close(self) -> None:
        """End the other process."""
        assert self._other.stdin is not None
        self._other.stdin.close()
        self._other.wait()
        dist.destroy_process_group()

    def _tell(self, line: str) -> None:
        assert self._other.stdin is not None
        self._other.stdin.write(line + "\n")
        self._other.stdin.flush()


def main() -> None:
    store, cut, *numbers = sys.argv[1:]
    blocks, width, heads, tokens, words, batch = map(int, numbers)
    torch.set_num_threads(1)
    shape = Shape(blocks=blocks, width=width, heads=heads, tokens=tokens, words=words, batch=batch)
    half = Half(Path(store), 0, int(cut), shape)
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "prepare":
            half.prepare(int(rest[0]))
        else:
            half.step()
            print(_DONE, end="", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
