"""All commands of the project under one name.

demetar                        lists them
demetar nbody --model=segnn    is python -m experiments.nbody --model=segnn
demetar generate nbody         is python -m tools.generate_nbody
demetar generate --model=egnn  is python -m experiments.generate --model=egnn
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.util
import os
import pathlib
import pkgutil
import runpy
import signal
import sys
import textwrap
from collections.abc import Mapping, Sequence

import demetar
import experiments
import tools
from demetar.errors import UserError

NAME = "demetar"
WIDTH = 80
USER_ERROR = 2  # exit code
ASKED = ("--help", "-help", "-h")
# Modules of tools that are commands: 'generate_nbody' is 'generate nbody'.
VERBS = ("generate", "import", "prepare")
OTHER_NAMES: Mapping[str, str] = {"nbody_table": "table"}
# What is listed first; other commands follow by their names.
FIRST = ("nbody", "qm9", "potential", "predict", "report", "table", "check_model")


def commands() -> dict[str, str]:
    """The commands that there are: the module of each, by name. Nothing is imported."""
    found = {}
    for _, name, is_package in pkgutil.iter_modules(experiments.__path__):
        path = pathlib.Path(experiments.__path__[0], name, "__main__.py")
        if not name.startswith("_") and (not is_package or path.exists()):
            found[OTHER_NAMES.get(name, name)] = f"experiments.{name}"
    names = sorted(found, key=lambda name: (name not in FIRST, name))
    ordered = [*(name for name in FIRST if name in found), *names]
    own = {name: found[name] for name in ordered}
    for _, name, _ in pkgutil.iter_modules(tools.__path__):
        verb, _, noun = name.partition("_")
        if verb in VERBS and noun:
            own[f"{verb} {noun}"] = f"tools.{name}"
    return own


def summary(module: str) -> str:
    """The first line of the docstring of a command, which is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    get_source = getattr(spec and spec.loader, "get_source", None)
    source = get_source(spec.name) if spec and get_source else None
    docstring = ast.get_docstring(ast.parse(source)) if source else None
    return (docstring or "").partition("\n")[0]


def listing(known: Mapping[str, str]) -> str:
    """All commands, with one line each."""
    column = 4 + max(map(len, known))
    rows = [
        f"  {name:<{column - 2}}{textwrap.shorten(summary(module), WIDTH - column)}"
        for name, module in known.items()
    ]
    return "\n".join(
        [
            f"usage: {NAME} COMMAND [--flag=value ...]",
            "",
            *rows,
            "",
            f"{NAME} COMMAND --help shows the flags of a command.",
        ]
    )


def choose(arguments: Sequence[str], known: Mapping[str, str]) -> tuple[str, list[str]]:
    """The command that is meant, and its arguments.

    Raises:
      UserError: there is no such command.
    """
    first, two = arguments[0], " ".join(arguments[:2])
    if two in known:
        return two, [*arguments[2:]]
    nouns = [name.split()[1] for name in known if name.startswith(f"{first} ")]
    names_noun = bool(nouns and arguments[1:] and not arguments[1].startswith("-"))
    if first in known and not names_noun:  # generate alone is a command too
        return first, [*arguments[1:]]
    if nouns:
        found = repr(arguments[1]) if arguments[1:] else "nothing"
        raise UserError(
            f"expected what to {first}: {' or '.join(nouns)}, found {found}; as in "
            f"{NAME} {first} {nouns[0]}"
        )
    words = list(dict.fromkeys([*known, *(name.split()[0] for name in known)]))
    near = difflib.get_close_matches(" ".join(arguments[:2]), words, 1)
    near = near or difflib.get_close_matches(first, words, 1)
    guess = f"; did you mean {near[0]}?" if near else ";"
    raise UserError(f"no command is called {first!r}{guess} {NAME} lists them")


def main() -> None:
    """Run the command that the command line names."""
    # While modules are imported, an interrupt is no traceback of whichever it meets.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments, known = sys.argv[1:], commands()
    if not arguments or arguments[0] in ASKED:
        print(listing(known))
        return
    if arguments == ["--version"]:
        print(f"{NAME} {demetar.__version__}")
        return
    try:
        name, others = choose(arguments, known)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    run(name, known[name], others)


def run(name: str, module: str, arguments: Sequence[str]) -> None:
    """Run a command as `python -m` does, with the current folder on the path."""
    from tools import cli  # only now: the list of commands is to be there at once

    if not sys.flags.safe_path:
        with contextlib.suppress(OSError):
            sys.path[0] = os.getcwd()
    cli.type_as(f"{NAME} {name}")
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
