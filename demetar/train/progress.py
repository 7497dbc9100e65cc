"""How far a run is, on a screen or in a file that is read later."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tqdm

_LINE_SECONDS = 10.0  # least time between two lines if stdout is no terminal
_COMPILING = "compiling ..."


class Progress:
    """One line in place on a terminal, elsewhere a line every few seconds."""

    def __init__(self, total_epochs: int, start_epoch: int, quiet: bool) -> None:
        self.epoch = start_epoch
        self._total = total_epochs
        self._quiet = quiet
        self._bar: tqdm.tqdm | None = None
        self._shown = ""  # beside the bar
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
        """Tell of an evaluation."""
        previous, self.epoch = self.epoch, metrics["epoch"]
        if self._quiet:
            return
        text = progress_text(metrics, self._total)
        if self._bar is not None:
            self._shown = text
            self._describe(text)
            self._bar.update(self.epoch - previous)
            return
        self._pending = text
        if time.monotonic() >= self._next_time or self.epoch >= self._total:
            self._print_pending()

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Tell of a compilation while it lasts."""
        if self._quiet:
            yield
            return
        if self._bar is None:
            with compiling():
                yield
            return
        self._describe(_COMPILING)
        self._bar.refresh()
        yield
        self._describe(self._shown)

    def close(self) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
        elif self._pending:
            self._print_pending()

    def _describe(self, text: str) -> None:
        assert self._bar is not None
        self._bar.ncols = shutil.get_terminal_size().columns - 1
        self._bar.set_description_str(text, refresh=False)

    def _print_pending(self) -> None:
        print(self._pending, flush=True)
        self._pending = ""
        self._next_time = time.monotonic() + _LINE_SECONDS


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Tell of a compilation while it lasts, if there is no progress line yet."""
    if not sys.stdout.isatty():
        print(_COMPILING, flush=True)
        yield
        return
    print(_COMPILING, end="", flush=True)
    try:
        yield
    finally:
        blank = " " * len(_COMPILING)
        print(f"\r{blank}\r", end="", flush=True)


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


def mean(value: Any) -> float | None:
    """The mean of a number or of numbers; None for anything else."""
    array = np.asarray(value)
    return float(array.mean()) if array.size and array.dtype.kind in "fiu" else None


def _number(value: Any) -> str:
    found = mean(value)
    return "-" if found is None else f"{found:.5f}"
