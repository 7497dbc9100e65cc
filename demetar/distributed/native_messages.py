"""A filter between the messages of jax's runtime and a person.

    COMMAND 2>&1 | python native_messages.py TEXT

What comes in on stdin goes out on stdout, but for what the coordination of processes
says: when it ends a process because another one is gone, that becomes the line
"error: TEXT".
"""

import os
import re
import sys

HEADER = re.compile(rb"[IWEF]\d{4} \d\d:\d\d:\d\d\S*\s+\d+ (\S+):\d+\] ")
PERHAPS_HEADER = re.compile(rb"[IWEF](\d{0,4}|\d{4} [^\n]*)")
COORDINATION = (b"coordination_service", b"preemption_sync", b"client.h")
GREETING = b"[Gloo] Rank "


class Filter:
    """Takes bytes as they come and gives those that a person should see."""

    def __init__(self, text: str):
        self._last_word = f"error: {text}".encode()
        self._pending = b""  # the beginning of a line
        self._hidden = False  # whether the message under way is
        self._ended = False

    def feed(self, content: bytes) -> bytes:
        *lines, rest = (self._pending + content).split(b"\n")
        out = b"".join(self._line(line + b"\n") for line in lines)
        if PERHAPS_HEADER.fullmatch(rest) or GREETING.startswith(rest[:12]):
            self._pending = rest
            return out
        self._pending = b""  # a progress bar, which ends no line
        return out + (b"" if self._hidden else rest)

    def end(self) -> bytes:
        return b"" if self._ended or self._hidden else self._pending

    def _line(self, line: bytes) -> bytes:
        header = HEADER.match(line)
        if self._ended:
            return b""
        if header:
            self._hidden = header[1].startswith(COORDINATION)
            if self._hidden and line.startswith(b"F"):
                self._ended = True
                return self._last_word + b"\n"
        elif line.startswith(self._last_word):  # the command itself was faster
            self._ended = True
            return line
        elif line.startswith(GREETING):
            return b""
        return b"" if self._hidden else line


def main() -> None:
    """Filter stdin until its end."""
    messages = Filter(sys.argv[1])
    while content := os.read(0, 65536):
        os.write(1, messages.feed(content))
    os.write(1, messages.end())


if __name__ == "__main__":
    main()
