"""How commands begin and end: their help, one-line errors, signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import tqdm

from demetar.errors import UserError
from tools import help_text
from tools.command_line import CommandLine, Given

USER_ERROR = 2  # exit code
ASKED = ("--help", "-help", "-h", "--helpfull", "--helpshort")


def parse(line: CommandLine, description: str) -> tuple[Given, list[str]]:
    """The command line of this process.

    --help prints the page of help and exits with 0; bad flags become one line on stderr
    and exit code 2.
    """
    arguments = sys.argv[1:]
    asked = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if any(argument in ASKED for argument in asked):
        print(help_text.page(program(), description, line))
        sys.stdout.flush()
        sys.exit(0)
    try:
        return line.parse(arguments)
    except UserError as error:
        refuse(error)


def refuse(error: UserError) -> NoReturn:
    """Tell what is wrong in one line, and end."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(USER_ERROR)


# The command as a person typed it, if not as a module of Python.
_typed: list[str] = []


def type_as(program: str) -> None:
    """Let the help name the program as it was typed, as 'demetar nbody'."""
    _typed[:] = [program]


def program() -> str:
    """The running command, as it is typed."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if _typed:
        return _typed[0]
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else sys.argv[0]


def run(
    action: Callable[[Given, list[str]], None],
    line: CommandLine,
    interrupted: str = "interrupted, nothing was written",
) -> None:
    """Run a generator or importer of data.

    Bad input becomes one line on stderr and exit code 2, an interrupt one line and
    exit code 130, without waiting for the calls that are under way.

    Args:
      action: what it does.
      line: its flags.
      interrupted: the line of an interrupt.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    given, others = parse(line, sys.modules[action.__module__].__doc__ or "")
    try:
        action(given, others)
    except UserError as error:
        refuse(error)
    except KeyboardInterrupt:
        print(f"error: {interrupted}", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)


@contextlib.contextmanager
def counting(total: int, unit: str, shown: bool) -> Iterator[Callable[[int], None]]:
    """What tells a progress bar on stderr of so many more, from any thread.

    Args:
      total: beyond which nothing is shown.
      unit: of what is counted.
      shown: whether there is a bar.
    """
    lock = threading.Lock()
    with tqdm.tqdm(total=total, unit=unit, disable=not shown) as bar:

        def told(count: int) -> None:
            with lock:
                bar.update(min(count, total - bar.n))

        yield told
