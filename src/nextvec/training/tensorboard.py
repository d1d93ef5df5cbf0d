"""The history of a run as scalars for TensorBoard, in RUN/tensorboard."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nextvec.errors import MissingDependencyError
from nextvec.training.history import HISTORY, read_history

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class Scalars:
    """Writes each epoch as `train` tells of it (its `after_epoch`), and before that those that it finds.

    What was written there before is replaced, so that a resumed run has each epoch once, those trained
    without TensorBoard too. Steps are updates. Nothing is written before the run has an epoch to show.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingDependencyError(
                "tensorboard is not installed",
                where="--tensorboard",
                remedy="pip install nextvec[tensorboard]",
            ) from None
        self.run = run
        self._open: type[SummaryWriter] = SummaryWriter
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None and kind is None:
            self._catch_up()  # a finished run that was resumed has no further epoch to tell
        if self._writer is not None:
            self._writer.close()

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Write one line of the history, the latest of the run's."""
        if self._writer is None:
            self._catch_up()
        else:
            self._write(self._writer, line, time.time())

    def _catch_up(self) -> None:
        """Open the folder anew, with every epoch so far."""
        if not (self.run / HISTORY).is_file():
            return
        folder = self.run / FOLDER
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = self._open(str(folder))
        lines = read_history(self.run)
        for line in lines:
            self._write(self._writer, line, time.time() - lines[-1]["seconds"] + line["seconds"])

    def _write(self, writer: SummaryWriter, line: Mapping[str, Any], at: float) -> None:
        for name, value in scalars(line):
            writer.add_scalar(name, value, line["update"], at)
        writer.flush()


def scalars(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a line of the history: "lr", "train/loss", "validation/cosine"..."""
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif name != "update":
            yield prefix + name, value
