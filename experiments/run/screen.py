"""What commands print to, whatever became of it.

A closed or broken screen, a full device behind it or a terminal without the characters
is no reason to lose a training: the command goes on, and its exit code tells.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Any, TextIO

BROKEN_PIPE = 128 + signal.SIGPIPE  # exit code, as of a command that the pipe ended
CANNOT_PRINT = 2  # exit code

# What is printed on terminals that have no such characters.
_PLAIN = str.maketrans(
    {"±": "+-", "²": "^2", "Δ": "Delta", "–": "-", "Å": "A", "µ": "u", "°": " deg"}
)


class Screen(io.TextIOBase):
    """A text stream that never raises.

    Args:
      stream: to print to; None if it was closed when the program began.

    Attributes:
      error: why nothing more is printed; None while all is well.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.error: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Print, in characters that the stream has."""
        if self._stream is not None and self.error is None:
            try:
                self._stream.write(self._printable(text))
                if "\n" in text or "\r" in text:
                    self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        if self._stream is not None and self.error is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def _give_up(self, error: OSError | ValueError) -> None:
        self.error = error
        # What the stream still holds must not fail once more when Python ends.
        descriptor = self.fileno()
        hole = os.open(os.devnull, os.O_WRONLY)
        os.dup2(hole, descriptor)
        os.close(hole)

    def _printable(self, text: str) -> str:
        encoding = self.encoding
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            plain = text.translate(_PLAIN)
            return plain.encode(encoding, "replace").decode(encoding)
        return text

    def isatty(self) -> bool:
        """Whether a person looks on."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of the stream."""
        if self._stream is None:
            raise io.UnsupportedOperation("closed")
        return self._stream.fileno()

    def writable(self) -> bool:
        """True."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def install() -> tuple[Screen, Screen]:
    """Put screens in the place of stdout and stderr, and return them.

    A descriptor that was closed is opened on nothing, or the next file that is opened
    would get its number and with it what is printed.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            hole = os.open(os.devnull, os.O_RDWR)
            if hole != descriptor:
                os.dup2(hole, descriptor)
                os.close(hole)
    screens = Screen(sys.stdout), Screen(sys.stderr)
    sys.stdout, sys.stderr = screens
    return screens


def exit_code(code: int, out: Screen) -> int:
    """The exit code of a command that ends with `code`, by what became of its output.

    A device that is full or gone is told on stderr, a reader that had enough is not.
    """
    out.flush()
    if out.error is None or code:
        return code
    if isinstance(out.error, BrokenPipeError):
        return BROKEN_PIPE
    reason = getattr(out.error, "strerror", None) or str(out.error)
    print(
        f"error: cannot print to the screen ({reason}); files are written as always",
        file=sys.stderr,
    )
    return CANNOT_PRINT
