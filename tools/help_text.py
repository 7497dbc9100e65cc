"""The page that --help shows: all flags of a command, in groups."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from demetar import settings
from tools.command_line import CommandLine, Flag

WIDTH = 80
KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


def page(program: str, description: str, line: CommandLine) -> str:
    """The page of a command.

    Args:
      program: as it is typed, as 'python -m experiments.nbody'.
      description: the docstring of the command.
      line: its flags and other arguments.
    """
    others = f" {line.positional}" if line.positional else ""
    lines = [f"usage: {program} [--flag=value ...]{others}", ""]
    if description:
        lines += [*_wrapped(description), ""]
    for group in settings.GROUPS:
        members = [flag for flag in line.flags.values() if flag.told.group == group]
        if members:
            lines += [
                f"{group}:",
                *(row for flag in members for row in _flag(flag)),
                "",
            ]
    lines.append("A flag is written --name=value; --help shows this text.")
    return "\n".join(lines)


def _wrapped(description: str) -> Iterator[str]:
    """The paragraphs of a docstring; those that are indented stay as they are."""
    for number, paragraph in enumerate(description.strip().split("\n\n")):
        if number:
            yield ""
        if paragraph.startswith(" "):
            yield from paragraph.splitlines()
        else:
            yield from textwrap.wrap(paragraph, WIDTH, break_on_hyphens=False)


def _flag(flag: Flag) -> Iterator[str]:
    """The lines of one flag: its name with what it takes, and what it is for."""
    yield f"  {_usage(flag)}"
    words = " ".join(flag.told.help.split())
    bounds = flag.told.bounds.describe()
    if bounds:
        words += f" {bounds[0].upper()}{bounds[1:]}."
    if flag.told.repeatable:
        words += " Repeatable."
    if flag.default:
        words += f" Default: {flag.default}."
    yield from textwrap.wrap(
        words,
        WIDTH,
        initial_indent=" " * 6,
        subsequent_indent=" " * 6,
        break_on_hyphens=False,
    )


def _usage(flag: Flag) -> str:
    if flag.kind is bool:
        return f"--[no]{flag.name}"
    choices = "|".join(flag.told.choices)
    if choices and len(choices) + len(flag.name) < WIDTH - 5:
        return f"--{flag.name}={choices}"
    kind = KINDS[flag.item]
    if flag.kind is tuple and not flag.told.repeatable:
        return f"--{flag.name}={kind},{kind},..."
    return f"--{flag.name}={kind}"
