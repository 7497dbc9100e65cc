"""Curves and pictures for TensorBoard, which a run can do without.

If tensorboardX cannot be imported, or fails, a person is told once and the training
goes on. Only a full disk is an error: it would end the other files of the run too.
"""

from __future__ import annotations

import errno
import importlib
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from demetar import files

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MODULES = (
    "tensorboardX.summary",
    "tensorboardX.event_file_writer",
    "tensorboardX.proto.event_pb2",
)


class Events:
    """A TensorBoard file, written in this thread. A context manager.

    `SummaryWriter` writes in a thread of its own that dies on a full disk, after which
    the run would wait for it for ever; here the `OSError` reaches the caller.

    Args:
      folder: of the run.
      start_epoch: epochs already made. TensorBoard hides the events of later ones that
        earlier sittings wrote.

    Raises:
      OSError: the disk is full. So do all methods.
    """

    def __init__(self, folder: pathlib.Path, start_epoch: int) -> None:
        self._writer: Any = None
        self._is_on = True
        self._guard(lambda: self._open(folder, start_epoch))

    def _open(self, folder: pathlib.Path, start_epoch: int) -> None:
        self._summary, writer, self._proto = map(importlib.import_module, _MODULES)
        # The suffix keeps two sittings within one second apart.
        prefix, suffix = str(folder / "events"), f".{time.time_ns()}"
        self._writer = writer.EventsWriter(prefix, suffix)
        # From here on TensorBoard forgets earlier events of the epochs to come.
        first = start_epoch + 1 if start_epoch else 0
        log = self._proto.SessionLog
        restart = log(status=log.START)
        self._write(self._proto.Event(step=first, session_log=restart))

    def add(self, kind: str, *content: Any, epoch: int) -> None:
        """Add what a function of `tensorboardX.summary` makes of its arguments.

        Args:
          kind: name of the function.
          content: its arguments.
          epoch: at which TensorBoard shows it.
        """

        def act() -> None:
            made = getattr(self._summary, kind)(*content)
            for part in made if isinstance(made, tuple) else (made,):
                self._write(self._proto.Event(step=epoch, summary=part))

        self._guard(act)

    def flush(self) -> None:
        """Hand what was added to the system."""
        self._guard(lambda: self._writer.flush())

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._guard(lambda: self._writer.close())

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def _guard(self, act: Callable[[], None]) -> None:
        if not self._is_on:
            return
        try:
            act()
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            self._is_on = False
            reason = f"{type(error).__name__}: {files.one_line(error)}"
            print(
                f"warning: no more TensorBoard events, tensorboardX fails ({reason}); "
                "the training goes on",
                file=sys.stderr,
            )
