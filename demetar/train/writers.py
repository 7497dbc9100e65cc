"""What a person sees of a run: metrics, TensorBoard, a progress line, pictures."""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import tqdm
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from demetar.train import checkpoint
from demetar.types import Array

METRICS_FILE = "metrics.jsonl"

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
_LINE_SECONDS = 10.0  # least time between two lines where stdout is no terminal


class RunWriter:
    """Writes what a run tells while it trains. A context manager.

    The lines of epochs after `start_epoch` that an interrupted run left in
    metrics.jsonl are removed, and TensorBoard hides its events of these epochs, so
    that a resumed run ends with the same lines as an uninterrupted one.

    Args:
      workdir: folder of the run; made where there is none.
      total_epochs: epochs of the whole run.
      start_epoch: epochs already made; 0 starts afresh.
      command: the command line, shown as text.
      hyperparameters: shown as text and, at the end, beside the final metrics.
      quiet: print no progress.

    Raises:
      UserError: nothing can be written to `workdir`. So do all methods.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        total_epochs: int,
        start_epoch: int,
        command: str,
        hyperparameters: Mapping[str, Any],
        quiet: bool = False,
    ) -> None:
        self._path = pathlib.Path(workdir) / METRICS_FILE
        self._hyperparameters = dict(hyperparameters)
        with _reporting(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        _truncate(self._path, start_epoch)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_reporting(self._path))
            self._file = stack.enter_context(open(self._path, "a", encoding="utf-8"))
            self._events = stack.enter_context(_Events(self._path.parent, start_epoch))
            if start_epoch == 0:
                self._events.add(summary.text("command", f"    {command}"), 0)
                settings = _settings_table(self._hyperparameters)
                self._events.add(summary.text("hyperparameters", settings), 0)
                self._events.flush()
            self._progress = _Progress(total_epochs, start_epoch, quiet)
            self._stack = stack.pop_all()

    def evaluation(self, metrics: Mapping[str, Any]) -> None:
        """Adds the line of one evaluation.

        Args:
          metrics: epoch, step, train_loss [R], valid_loss [R], best_valid_loss [R],
            best_epoch [R], learning_rate, gradient_norm [R], update_norm [R],
            steps_per_second, graphs_per_second, wall_seconds; others are written too.
        """
        with _reporting(self._path):
            line = json.dumps(checkpoint.to_json(metrics), allow_nan=False)
            self._file.write(line + "\n")
            self._file.flush()
            for name, tag in _TAGS.items():
                for full_tag, value in _curves(tag, metrics.get(name)):
                    self._events.add(summary.scalar(full_tag, value), metrics["epoch"])
            self._events.flush()
        self._progress.show(metrics)

    def figure(self, tag: str, figure: Figure, epoch: int) -> None:
        """Shows a picture in TensorBoard."""
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())
        with _reporting(self._path):
            self._events.add(summary.image(tag, pixels, dataformats="HWC"), epoch)
            self._events.flush()

    def finish(self, final: Mapping[str, Any]) -> None:
        """Shows the hyper-parameters beside the final metrics (of lists, the means).

        They stand in this run; `SummaryWriter.add_hparams` would make another one.
        """
        metrics = {f"final/{name}": _mean(value) for name, value in final.items()}
        metrics = {name: value for name, value in metrics.items() if value is not None}
        values = {name: _plain(value) for name, value in self._hyperparameters.items()}
        epoch = self._progress.epoch
        with _reporting(self._path):
            for event in summary.hparams(values, metrics):
                self._events.add(event, epoch)
            for name, value in metrics.items():
                self._events.add(summary.scalar(name, value), epoch)
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
    """In place of a `RunWriter` where another process writes. A context manager."""

    def evaluation(self, metrics: Mapping[str, Any]) -> None:
        """Nothing."""

    def __enter__(self) -> NoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Events:
    """A TensorBoard file, written in this thread. A context manager.

    `SummaryWriter` writes in a thread of its own that dies on a full disk, after which
    the run would wait for it for ever; here the `OSError` reaches the caller.
    """

    def __init__(self, folder: pathlib.Path, start_epoch: int) -> None:
        # The suffix keeps two sittings within one second apart.
        prefix, suffix = str(folder / "events"), f".{time.time_ns()}"
        self._writer = EventsWriter(prefix, suffix)
        # From here on TensorBoard forgets earlier events of the epochs to come.
        first = start_epoch + 1 if start_epoch else 0
        restart = SessionLog(status=SessionLog.START)
        self._write(Event(step=first, session_log=restart))

    def add(self, content: Any, epoch: int) -> None:
        self._write(Event(step=epoch, summary=content))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def flush(self) -> None:
        self._writer.flush()

    def __enter__(self) -> _Events:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


class _Progress:
    """One line in place on a terminal, elsewhere a line every few seconds."""

    def __init__(self, total_epochs: int, start_epoch: int, quiet: bool) -> None:
        self.epoch = start_epoch
        self._total = total_epochs
        self._quiet = quiet
        self._bar = None
        self._pending = ""  # the latest line, while it is not printed
        self._next_time = 0.0
        if not quiet and sys.stdout.isatty():
            # Asked here because tqdm shows nothing on a terminal that hides its size.
            columns, lines = shutil.get_terminal_size()
            self._bar = tqdm.tqdm(
                total=total_epochs,
                initial=start_epoch,
                file=sys.stdout,
                bar_format="{desc} |{bar}|",
                ncols=columns - 1,
                nrows=lines,
                miniters=1,
            )

    def show(self, metrics: Mapping[str, Any]) -> None:
        previous, self.epoch = self.epoch, metrics["epoch"]
        if self._quiet:
            return
        text = progress_text(metrics, self._total)
        if self._bar is not None:
            self._bar.ncols = shutil.get_terminal_size().columns - 1
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(self.epoch - previous)
            return
        self._pending = text
        if time.monotonic() >= self._next_time or self.epoch >= self._total:
            self._print_pending()

    def _print_pending(self) -> None:
        print(self._pending, flush=True)
        self._pending = ""
        self._next_time = time.monotonic() + _LINE_SECONDS

    def close(self) -> None:
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
        elif self._pending:
            self._print_pending()


def progress_text(metrics: Mapping[str, Any], total_epochs: int) -> str:
    """The progress line of an evaluation; losses are means over the seeds."""
    best = np.ravel(metrics["best_epoch"])
    epochs = "-".join(str(epoch) for epoch in sorted({best.min(), best.max()}))
    parts = [
        f"epoch {metrics['epoch']}/{total_epochs}",
        f"train {_number(metrics['train_loss'])}",
        f"valid {_number(metrics['valid_loss'])}",
        f"best {_number(metrics['best_valid_loss'])} at {epochs}",
    ]
    speed, epoch = metrics["steps_per_second"], metrics["epoch"]
    if speed and epoch:
        steps_left = metrics["step"] / epoch * (total_epochs - epoch)
        parts.append(f"ETA {tqdm.tqdm.format_interval(steps_left / speed)}")
        parts.append(f"{speed:.4g} steps/s")
    if best.size > 1:
        parts.append(f"(mean of {best.size} seeds)")
    return "  ".join(parts)


def motion_figure(
    start: Array, true: Array, predicted: Array, title: str, unit: str = ""
) -> Figure:
    """A picture of the true and the predicted motion of one system, in two projections.

    Args:
      start: [n, 3] positions.
      true: [n, 3] later positions.
      predicted: [n, 3] their prediction.
      title: what is shown.
      unit: unit of the positions; '' for none.
    """
    shown = np.stack([np.asarray(start), np.asarray(true), np.asarray(predicted)])
    error = np.mean((shown[2] - shown[1]) ** 2)
    figure = Figure(figsize=(9.0, 5.2), dpi=100, layout="constrained")
    for axes, plane in zip(figure.subplots(1, 2), ((0, 1), (0, 2)), strict=True):
        _draw_plane(axes, shown[..., plane])
        labels = [f"{'xyz'[axis]} / {unit}" if unit else "xyz"[axis] for axis in plane]
        axes.set(xlabel=labels[0], ylabel=labels[1])
    square = f" {unit}²" if unit else ""
    figure.suptitle(f"{title}: mean squared error {error:.2g}{square}")
    figure.legend(handles=_motion_legend(), loc="outside lower center", ncols=3)
    return figure


def _draw_plane(axes: Axes, points: np.ndarray) -> None:
    """One projection; points [3, n, 2] are start, true end and predicted end."""
    for index in range(points.shape[1]):
        color = f"C{index % 10}"
        start, true, predicted = points[:, index]
        for end, style in ((true, "-"), (predicted, "--")):
            arrow = dict(arrowstyle="->", color=color, linestyle=style, linewidth=1.3)
            arrow |= dict(shrinkA=3, shrinkB=4)  # points to the rim of the marks
            axes.annotate("", xy=end, xytext=start, arrowprops=arrow)
        axes.plot(*start, "o", color=color, markerfacecolor="white")
        axes.plot(*true, "o", color=color)
        axes.plot(*predicted, "x", color=color, markersize=8, markeredgewidth=1.8)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.1)
    axes.grid(alpha=0.3)


def _motion_legend() -> list[Line2D]:
    """Marks in gray: the colours belong to the particles."""
    start = Line2D([], [], color="0.3", marker="o", linestyle="", label="start")
    start.set_markerfacecolor("white")
    true = Line2D([], [], color="0.3", marker="o", linestyle="-", label="true")
    predicted = Line2D([], [], color="0.3", marker="x", linestyle="--")
    predicted.set_label("predicted")
    return [start, true, predicted]


@contextlib.contextmanager
def _reporting(path: pathlib.Path) -> Iterator[None]:
    """Turns an `OSError` into a `UserError` that names the path."""
    try:
        yield
    except OSError as error:
        raise checkpoint.write_error(error.filename or path, error) from error


def _truncate(path: pathlib.Path, start_epoch: int) -> None:
    """Keeps the whole lines of epochs up to `start_epoch`; none for a fresh start."""
    lines = []
    with _reporting(path):
        if start_epoch and path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _is_kept(line, start_epoch)]
    checkpoint.write_bytes(path, b"".join(kept))


def _is_kept(line: bytes, start_epoch: int) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line)["epoch"] <= start_epoch
    except (ValueError, TypeError, KeyError):
        return False  # half written when an earlier run was killed


def _settings_table(hyperparameters: Mapping[str, Any]) -> str:
    """A Markdown table, which TensorBoard renders."""
    rows = [f"| {name} | {value} |" for name, value in sorted(hyperparameters.items())]
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def _curves(tag: str, value: Any) -> list[tuple[str, float]]:
    """The curves of a metric: its mean, and one per seed where there are several.

    Numbers that are not finite leave a gap.
    """
    mean = _mean(value)
    if mean is None:
        return []
    curves = [(tag, mean)]
    if np.size(value) > 1:
        seeds = enumerate(np.ravel(value))
        curves += [(f"{tag}/seed_{k}", float(number)) for k, number in seeds]
    return [(name, number) for name, number in curves if math.isfinite(number)]


def _mean(value: Any) -> float | None:
    """The mean of a number or of numbers; None for anything else."""
    array = np.asarray(value)
    return float(array.mean()) if array.size and array.dtype.kind in "fiu" else None


def _number(value: Any) -> str:
    mean = _mean(value)
    return "-" if mean is None else f"{mean:.5f}"


def _plain(value: Any) -> bool | int | float | str:
    """A hyper-parameter as TensorBoard takes it."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)
