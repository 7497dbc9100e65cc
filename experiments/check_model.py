"""Check that a model keeps its promises.

    python -m experiments.check_model my_package.my_module:MyModel

MODEL is a registered one, or a class of your own; a module in the current folder will
do. Every number of this project relies on these promises: symmetries as the model
states them, padding, permutations, gradients where points coincide, one compilation per
size, float64, and more. The model is tried in its small configuration, on a few charged
bodies or molecules; each promise takes seconds, mostly to compile. The exit code is 0
if all are kept, and 1 if not.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from demetar import models, testing
from demetar.errors import UserError
from demetar.settings import MODEL, setting
from experiments.run import cli
from tools.command_line import CommandLine, Given

BROKEN = 1  # exit code
WIDTH = 26  # of the name of a promise


@dataclasses.dataclass(frozen=True)
class Options:
    """The configuration that is tried."""

    set: tuple[str, ...] = setting(
        (),
        "field=value of the model, as in --set=hidden_size=32.",
        MODEL,
        repeatable=True,
    )


LINE = CommandLine(Options, positional="MODEL")


def main(given: Given, names: Sequence[str]) -> int:
    """Print a verdict on each promise."""
    if len(names) != 1:
        raise UserError(
            f"expected one model, registered or as {models.own.FORM}, found "
            f"{' '.join(names) or 'none'}; see --help"
        )
    name = names[0]
    fields = models.check_fields(
        name, models.parse_fields(name, given.read(Options).set)
    )
    cls = models.model_class(name)
    print(f"{name}: {cls.symmetry}, {', '.join(sorted(cls.supports))}", flush=True)
    found: list[testing.Verdict] = []
    for verdict in testing.check(name, fields, announce):
        if not found or found[-1].task != verdict.task:
            print(f"{erased()}{verdict.task}")
        print(erased() + describe(verdict), flush=True)
        found.append(verdict)
    broken = [verdict for verdict in found if not verdict.kept]
    if broken:
        print(f"{name} breaks {len(broken)} of {len(found)} promises")
        return BROKEN
    print(f"{name} keeps all {len(found)} promises")
    return 0


def describe(verdict: testing.Verdict) -> str:
    """One line."""
    word = "kept  " if verdict.kept else "BROKEN"
    return (
        f"  {verdict.promise:<{WIDTH}} {word}  {verdict.detail}  "
        f"({verdict.seconds:.1f} s)"
    )


def announce(task: str, promise: str) -> None:
    """Tell a person who waits what is being tried."""
    if sys.stdout.isatty():
        print(f"{erased()}  {promise} ({task}) ...", end="", flush=True)


def erased() -> str:
    """What takes the line back that was told meanwhile."""
    return "\r\033[K" if sys.stdout.isatty() else ""


if __name__ == "__main__":
    cli.run(main, LINE)
