"""Board: the TensorBoard files of a run; imported only where the package is installed."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from stages.train.position import Epoch


class TensorBoard:
    """Writes the curves of a run for TensorBoard."""

    def __init__(self, folder: Path, first_step: int) -> None:
        # What a killed process wrote after its last checkpoint will come again: purge hides it.
        self._writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def point(self, step: int, loss: float, lr: float) -> None:
        """Write the training loss at a step."""
        self._writer.add_scalar("train/loss", loss, step)
        self._writer.add_scalar("train/lr", lr, step)

    def epoch(self, row: Epoch) -> None:
        """Write what an epoch measured."""
        values = {
            "eval/top1": row.top1,
            "eval/loss": row.eval_loss,
            "eval/ema_top1": row.ema_top1,
            "train/images_per_s": row.images_per_s,
        }
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, row.step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()
