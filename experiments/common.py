"""What the commands share: one-line errors, signals, versions, the work directory."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from absl import app

from demetar.errors import UserError
from demetar.train import checkpoint

USER_ERROR = 2  # exit code
VERSIONED = ("jax", "jaxlib", "dm-haiku", "e3nn-jax", "jraph", "optax", "numpy")


def run(main: Callable[[list[str]], int | None], positional: bool = False) -> None:
    """Run a command: bad input becomes one line on stderr and exit code 2.

    Args:
      main: gets the arguments that are no flags, the program's name first.
      positional: whether the command takes such arguments.
    """
    # Which backends jax looked for in vain is no news to a user.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)

    def guarded(argv: list[str]) -> None:
        try:
            if argv[1:] and not positional:
                raise UserError(
                    f"expected flags as --name=value, found {argv[1]!r}; see --help"
                )
            code = main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(USER_ERROR)
        sys.exit(code or 0)

    app.run(guarded)


def cache_dir() -> pathlib.Path:
    """Where generated data and compiled programs are kept between runs."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "demetar"


def enable_compile_cache() -> None:
    """Keep compiled programs on the disk, so that a second start is fast."""
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class StopSignal:
    """Remembers a SIGINT or SIGTERM until the loop asks.

    Attributes:
      number: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self) -> bool:
        return self.number is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen within the context. A second signal acts at once, as by default."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        earlier = {number: signal.getsignal(number) for number in numbers}

        def remember(number: int, _: Any) -> None:
            self.number = number
            for each in numbers:
                signal.signal(each, earlier[each])
            print("\nsaving and leaving; once more to leave at once", flush=True)

        for number in numbers:
            signal.signal(number, remember)
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, earlier[number])


def versions() -> dict[str, str]:
    """Versions of what computes."""
    found = {name: importlib.metadata.version(name) for name in VERSIONED}
    return {"python": platform.python_version(), **found}


def device() -> str:
    """The device that computes, and the processor cores beside it."""
    first = jax.devices()[0]
    kind = first.device_kind if first.platform != "cpu" else platform.machine()
    cores = len(os.sched_getaffinity(0))
    return f"{first.platform} {kind}, {cores} CPU cores"


def claim_workdir(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Mark the work directory as that of a run, or make sure that it is.

    Raises:
      UserError: it belongs to another run, is no directory, or cannot be written.
    """
    path = workdir / "config.json"
    config = json.loads(json.dumps(config))
    if not path.exists():
        if workdir.is_dir() and any(workdir.iterdir()):
            raise UserError(
                f"{workdir} holds files but no config.json of a run; choose another "
                "--workdir"
            )
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the work directory {workdir}: {error.strerror}; choose "
                "another --workdir"
            ) from None
        checkpoint.write_json(path, config)
        return
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path} ({error}); choose another --workdir"
        ) from None
    changed = [
        f"{name} was {found.get(name)!r} and is now {config.get(name)!r}"
        for name in sorted({*found, *config})
        if found.get(name) != config.get(name)
    ]
    if changed:
        raise UserError(
            f"{workdir} belongs to another run: {'; '.join(changed)}; choose another "
            "--workdir, or give the command of that run to continue it"
        )
