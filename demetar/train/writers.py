"""What a run writes while it trains: metrics, TensorBoard events, a progress line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from demetar import files, places
from demetar.errors import UserError
from demetar.train import checkpoint
from demetar.train.events import Events
from demetar.train.progress import Progress, mean

METRICS_FILE = "metrics.jsonl"
RUN = "run"  # what a line calls the id of its run

# Where TensorBoard shows each metric of an evaluation.
_TAGS = {
    "train_loss": "loss/train",
    "valid_loss": "loss/valid",
    "best_valid_loss": "loss/best_valid",
    "learning_rate": "optimizer/learning_rate",
    "gradient_norm": "optimizer/gradient_norm",
    "update_norm": "optimizer/update_norm",
    "steps_per_second": "speed/steps_per_second",
    "graphs_per_second": "speed/graphs_per_second",
}


class RunWriter:
    """Writes what a run tells while it trains. A context manager.

    The lines of epochs after `start_epoch` that an interrupted run left in
    metrics.jsonl are removed, and TensorBoard hides its events of these epochs, so
    that a resumed run ends with the same lines as an uninterrupted one.

    Args:
      workdir: folder of the run; made if there is none.
      total_epochs: epochs of the whole run.
      start_epoch: epochs already made; 0 starts afresh.
      command: the command line, shown as text.
      hyperparameters: shown as text and, at the end, beside the final metrics.
      run_id: of the run, in every line; '' for none.
      quiet: print no progress.

    Raises:
      UserError: nothing can be written to `workdir`, or its metrics.jsonl is damaged,
        lacks evaluations up to `start_epoch`, or is of another run. So do all methods.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        total_epochs: int,
        start_epoch: int,
        command: str,
        hyperparameters: Mapping[str, Any],
        run_id: str = "",
        quiet: bool = False,
    ) -> None:
        self._path = pathlib.Path(workdir) / METRICS_FILE
        self._hyperparameters = dict(hyperparameters)
        self._identity = {RUN: run_id} if run_id else {}
        with _reporting(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        _truncate(self._path, start_epoch, run_id)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_reporting(self._path))
            self._file = stack.enter_context(open(self._path, "a", encoding="utf-8"))
            self._events = stack.enter_context(Events(self._path.parent, start_epoch))
            if start_epoch == 0:
                settings = _settings_table(self._hyperparameters)
                texts = {"command": f"    {command}", "hyperparameters": settings}
                for name, text in texts.items():
                    self._events.add("text", name, text, epoch=0)
                self._events.flush()
            self._progress = Progress(total_epochs, start_epoch, quiet)
            self._stack = stack.pop_all()

    def evaluation(self, metrics: Mapping[str, Any]) -> None:
        """Adds the line of one evaluation.

        Args:
          metrics: epoch, step, train_loss [R], valid_loss [R], best_valid_loss [R],
            best_epoch [R], learning_rate, gradient_norm [R], update_norm [R],
            steps_per_second, graphs_per_second, wall_seconds, and of several heads
            valid_by_head {head: [R]}; others are written too.
        """
        with _reporting(self._path):
            content = checkpoint.to_json({**metrics, **self._identity})
            line = json.dumps(content, allow_nan=False)
            self._file.write(line + "\n")
            self._file.flush()
            heads = metrics.get("valid_by_head", {})
            tagged = {tag: metrics.get(name) for name, tag in _TAGS.items()}
            tagged |= {f"loss/valid_{name}": value for name, value in heads.items()}
            for tag, value in tagged.items():
                for curve in _curves(tag, value):
                    self._events.add("scalar", *curve, epoch=metrics["epoch"])
            self._events.flush()
        self._progress.show(metrics)

    def sync(self) -> None:
        """Put the lines on the disk, before a checkpoint that counts on them."""
        with _reporting(self._path):
            os.fsync(self._file.fileno())

    def compiling(self) -> AbstractContextManager[Any]:
        """A context in which a person is told of a compilation."""
        return self._progress.compiling()

    def figure(self, tag: str, figure: Figure, epoch: int) -> None:
        """Shows a picture in TensorBoard."""
        canvas = FigureCanvasAgg(figure)
        with warnings.catch_warnings():  # of characters that the font does not have
            warnings.simplefilter("ignore")
            canvas.draw()
        pixels = np.moveaxis(np.asarray(canvas.buffer_rgba()), -1, 0)
        with _reporting(self._path):
            self._events.add("image", tag, pixels, epoch=epoch)
            self._events.flush()

    def finish(self, final: Mapping[str, Any]) -> None:
        """Shows the hyper-parameters beside the final metrics (of lists, the means).

        They stand in this run; `SummaryWriter.add_hparams` would make another one.
        """
        means = {f"final/{name}": mean(value) for name, value in final.items()}
        metrics = {name: value for name, value in means.items() if value is not None}
        values = {name: _plain(value) for name, value in self._hyperparameters.items()}
        epoch = self._progress.epoch
        with _reporting(self._path):
            self._events.add("hparams", values, metrics, epoch=epoch)
            for name, value in metrics.items():
                self._events.add("scalar", name, value, epoch=epoch)
            self._events.flush()

    def close(self) -> None:
        """Ends the progress line and closes the files."""
        self._progress.close()
        self._stack.close()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class NoWriter:
    """In place of a `RunWriter` if another process writes. A context manager."""

    def evaluation(self, metrics: Mapping[str, Any]) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def compiling(self) -> AbstractContextManager[Any]:
        """Nothing."""
        return contextlib.nullcontext()

    def __enter__(self) -> NoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _reporting(path: pathlib.Path) -> Iterator[None]:
    """Turns an `OSError` into a `UserError` that names the path."""
    try:
        yield
    except OSError as error:
        raise places.unwritten(error.filename or path, error) from error


def _truncate(path: pathlib.Path, start_epoch: int, run_id: str) -> None:
    """Keeps the lines of evaluations up to `start_epoch`; none for a fresh start."""
    kept = b""
    with _reporting(path):
        if start_epoch and path.exists():
            kept = _kept_lines(path, start_epoch, run_id)
    checkpoint.write_bytes(path, kept)


def _kept_lines(path: pathlib.Path, start_epoch: int, run_id: str) -> bytes:
    """The lines up to that of `start_epoch`, which the checkpoint came after.

    What follows was made after the checkpoint, and may be half a line.

    Raises:
      UserError: a line before it is damaged or of another run, or it is not there.
    """
    hint = "restore it from a copy, or remove it to go on without its lines"
    content = files.read_bytes(path, hint)
    end, epoch = 0, -1
    while epoch < start_epoch:
        stop = content.find(b"\n", end) + 1
        if not stop:
            raise UserError(
                f"{path} ends after epoch {max(epoch, 0)}, expected the evaluations up "
                f"to epoch {start_epoch}, where the checkpoint stands; {hint}"
            )
        line = files.parse_json(content[end:stop], path, hint)
        found = line.get("epoch")
        if not isinstance(found, int) or not epoch < found:
            raise UserError(
                f"{path}: expected an epoch after {max(epoch, 0)}, found "
                f"{found!r}; {hint}"
            )
        if run_id and line.get(RUN) != run_id:
            raise checkpoint.foreign(path, line.get(RUN), run_id)
        if found > start_epoch:
            raise UserError(
                f"{path} has no evaluation at epoch {start_epoch}, where the "
                f"checkpoint stands; {hint}"
            )
        end, epoch = stop, found
    return content[:end]


def _settings_table(hyperparameters: Mapping[str, Any]) -> str:
    """A Markdown table, which TensorBoard renders."""
    rows = [f"| {name} | {value} |" for name, value in sorted(hyperparameters.items())]
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def _curves(tag: str, value: Any) -> list[tuple[str, float]]:
    """The curves of a metric: its mean, and one per seed if there are several.

    Numbers that are not finite leave a gap.
    """
    average = mean(value)
    if average is None:
        return []
    curves = [(tag, average)]
    if np.size(value) > 1:
        seeds = enumerate(np.ravel(value))
        curves += [(f"{tag}/seed_{k}", float(number)) for k, number in seeds]
    return [(name, number) for name, number in curves if math.isfinite(number)]


def _plain(value: Any) -> bool | int | float | str:
    """A hyper-parameter as TensorBoard takes it."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)
