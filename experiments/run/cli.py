"""What the commands share: one-line errors, signals, versions."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import io
import logging
import os
import pathlib
import platform
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import tqdm
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import demetar
from demetar import files, places
from demetar.distributed import launch
from demetar.errors import UserError
from demetar.train import checkpoint
from experiments.run import revision, screen
from tools import cli
from tools.command_line import CommandLine, Given

T = TypeVar("T")
Main: TypeAlias = Callable[[Given, list[str]], int | None]

SECONDS_PER_LINE = 20.0  # if no terminal shows a bar
_SHORT_SECONDS = 5.0  # that nobody needs to be told of
USER_ERROR = cli.USER_ERROR  # exit code
SIGNALLED = 128  # exit code less the number of the signal
# What is wrong with a path or with the place that it names.
_OF_PATHS = (
    *(errno.EACCES, errno.EDQUOT, errno.EIO, errno.EISDIR, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS),
)
VERSIONED = ("jax", "jaxlib", "dm-haiku", "e3nn-jax", "jraph", "optax", "numpy")


def run(main: Main, line: CommandLine) -> None:
    """Run a command: bad input becomes one line on stderr and exit code 2.

    Args:
      main: gets the flags and the other arguments, and returns an exit code.
      line: what flags there are, and whether other arguments.
    """
    # Which backends jax looked for in vain is no news to a user.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)

    # What listens to neither signal is left at once, without a traceback. A shell that
    # starts a command in the background would have it ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)

    description = sys.modules[main.__module__].__doc__ or ""
    out, _ = screen.install()
    try:
        given, arguments = cli.parse(line, description)
        sys.exit(_guarded(lambda: main(given, arguments)))
    except SystemExit as leaving:
        code = (
            leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
        )
        code = screen.exit_code(code, out)
        if code > SIGNALLED:
            _leave_at_once(code)
        sys.exit(code)


def _leave_at_once(code: int) -> None:
    """Exit although a compiled program may be under way.

    Python would take away what it computes with, and be killed for it.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _guarded(main: Callable[[], int | None]) -> int:
    """The exit code of a command; what a person can mend is one line on stderr."""
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        launch.leave(USER_ERROR)
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        print("error: interrupted; the same command continues", file=sys.stderr)
        launch.leave(SIGNALLED + number)
    except Exception as error:
        if launch.tells_of_a_loss(error):
            launch.leave(launch.PEER_LOST)
        surroundings = _of_surroundings(error)
        if surroundings:
            print(f"error: {surroundings}", file=sys.stderr)
            launch.leave(USER_ERROR)
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        launch.leave(1)


def _of_surroundings(error: Exception) -> str:
    """What a machine lacks, of which an error tells; '' for any other error."""
    reason = files.one_line(error)[:200]
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms and not _has_devices():
        told = f" ({reason})" if str(error) else ""
        return (
            f"JAX_PLATFORMS={platforms} names what is not there{told}; unset it, or "
            "name cpu"
        )
    if isinstance(error, OSError) and error.errno in _OF_PATHS and error.filename:
        return (
            f"cannot use {str(error.filename)[:100]}: {error.strerror}; give another "
            "path, or free space there"
        )
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in reason:
        return (
            f"the memory does not suffice ({reason}); try a smaller --batch_size, "
            "fewer seeds, or a smaller model"
        )
    return ""


def _has_devices() -> bool:
    try:
        return bool(jax.devices())
    except Exception:  # jax fails in several ways, by what it has no plugin for
        return False


def _interrupt(number: int, _: Any) -> None:
    raise KeyboardInterrupt(number)


def cache_dir() -> pathlib.Path:
    """Where generated data and compiled programs are kept between runs."""
    root = os.environ.get("XDG_CACHE_HOME")
    if root:
        return pathlib.Path(root) / "demetar"
    try:
        return pathlib.Path.home() / ".cache" / "demetar"
    except RuntimeError:  # no HOME, and no such user
        return _homeless_cache()


def data_root(data_dir: str | None) -> pathlib.Path:
    """Where data sets lie: --data_dir, or the place in the cache."""
    return pathlib.Path(data_dir or cache_dir() / "data")


def _homeless_cache() -> pathlib.Path:
    """A folder that nobody else can write to, for programs are run from it.

    Raises:
      UserError: there is none.
    """
    folder = pathlib.Path(tempfile.gettempdir()) / f"demetar-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if is_own and not found.st_mode & 0o077:
            return folder
        reason = "it is not this user's alone"
    except OSError as error:
        reason = error.strerror or files.one_line(error)
    raise UserError(
        f"expected a home directory, or {folder} for what is kept between runs "
        f"({reason}); set HOME or XDG_CACHE_HOME"
    )


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
            # Not with print: the signal may have come within one.
            with contextlib.suppress(OSError):
                os.write(1, b"\nsaving and leaving; once more to leave at once\n")

        for number in numbers:
            signal.signal(number, remember)
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, earlier[number])


def progress(
    items: Iterable[T], description: str, total: int | None, unit: str = " molecules"
) -> Iterable[T]:
    """The items, with a progress bar on stderr, or lines if nobody looks."""
    if not sys.stderr.isatty():
        return _told(items, description, total)
    return tqdm.tqdm(items, description, total, mininterval=0.2, unit=unit)


def progress_of_calls(description: str) -> Callable[[range], Iterable[int]]:
    """Tells how far calls of a program are, but only if they take long."""

    def over(calls: range) -> Iterable[int]:
        if not sys.stderr.isatty():
            return _told(calls, description, len(calls), at_once=False)
        return tqdm.tqdm(
            calls, description, delay=_SHORT_SECONDS, leave=False, unit=" calls"
        )

    return over


def _told(
    items: Iterable[T], description: str, total: int | None, at_once: bool = True
) -> Iterator[T]:
    """The items, with a line on stderr now and then, and one at once."""
    if at_once:
        print(f"{description} ...", file=sys.stderr)
    told = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - told > SECONDS_PER_LINE:
            told = time.monotonic()
            part = f"{done:,}" if total is None else f"{done / total:.0%}"
            print(f"{description} ... {part}", file=sys.stderr)
        yield item


def markdown_table(rows: Sequence[Mapping[str, str]], rule: str = "---") -> str:
    """Rows of the same columns in Markdown, under the names of the first one.

    Args:
      rule: below every name; where its colons are says how the column is aligned.
    """

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join(
        [line(rows[0]), line(rule for _ in rows[0]), *(line(r.values()) for r in rows)]
    )


def make_folder(folder: pathlib.Path) -> None:
    """Make a folder for what a command writes.

    Raises:
      UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = places.not_a_folder(folder, error)
        raise UserError(f"cannot make {folder}: {reason}; give another") from None


@contextlib.contextmanager
def new_folder(folder: pathlib.Path) -> Iterator[None]:
    """Make a folder, within which something is computed and then written.

    If that fails, folders that were made for it and are empty are removed.

    Raises:
      UserError: it cannot be made.
    """
    missing = [own for own in (folder, *folder.parents) if not own.exists()]
    try:
        make_folder(folder)
        yield
    except BaseException:
        for own in missing:
            with contextlib.suppress(OSError):
                own.rmdir()
        raise


def save_figure(path: pathlib.Path, figure: Figure) -> None:
    """Write a picture as PNG, atomically."""
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    checkpoint.write_bytes(path, content.getvalue())


def versions() -> dict[str, str]:
    """Versions of what computes; in a checkout of the project, its commit too."""
    own = {"demetar": demetar.__version__}
    commit = revision.commit()
    if commit is not None:
        own["commit"] = commit
    found = {name: importlib.metadata.version(name) for name in VERSIONED}
    return {**own, "python": platform.python_version(), **found}


def device() -> str:
    """The devices that compute, and the processor cores beside them."""
    first, count = jax.devices()[0], jax.device_count()
    kind = first.device_kind if first.platform != "cpu" else platform.machine()
    cores = len(os.sched_getaffinity(0))
    several = f"{count} x " if count > 1 else ""
    hosts = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{several}{first.platform} {kind}{hosts}, {cores} CPU cores"
