"""How long the kinds of work of a run take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Seconds by kind of work; one kind may be part of another.

    Attributes:
      seconds: {kind: what it took so far}, of the kinds that were timed.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._taken: dict[str, float] = {}

    @contextlib.contextmanager
    def timing(self, kind: str) -> Iterator[None]:
        """Count the time within the context, also if it ends with an error."""
        began = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - began
            self.seconds[kind] = self.seconds.get(kind, 0.0) + elapsed

    def take(self) -> dict[str, float]:
        """Seconds by kind since the last time that somebody took them."""
        new = {
            kind: total - self._taken.get(kind, 0.0)
            for kind, total in self.seconds.items()
        }
        self._taken = dict(self.seconds)
        return new
