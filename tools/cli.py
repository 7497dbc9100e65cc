"""The command line of every command: flags, and a help that lists all of them."""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence

from absl import flags

from demetar.errors import UserError

WIDTH = 80
USER_ERROR = 2  # exit code
ASKED = ("--help", "-help", "-h", "--helpfull", "--helpshort")
LIBRARIES = ("absl.", "absl", "jax", "jax.", "chex.", "etils.")

# Groups in the order in which they are shown. A flag that is in none comes last.
GROUPS = {
    "data": (
        *("dataset", "data_dir", "data_seed", "num_train", "num_valid", "split"),
        *("num_bodies", "full_data", "eval_dataset", "start_frame", "target_frame"),
        *("target", "target_kind", "cues", "connectivity", "num_neighbors", "cutoff"),
        *("node_features", "bond_features"),
    ),
    "model": ("model", "models", "protocol", "set"),
    "training": (
        *("epochs", "batch_size", "learning_rate", "schedule", "warmup_epochs"),
        *("optimizer", "weight_decay", "clip_norm", "clip_each", "average_decay"),
        *("loss", "loss_transform", "loss_floor", "phase", "augment", "eval_every"),
        *("seed", "num_seeds", "dtype"),
    ),
    "output": ("workdir", "out", "compile_cache"),
    "processes": ("cpu_devices", "coordinator", "num_processes", "process_id"),
}
OTHER = "other"
_CHOICES = re.compile(r"^<[^>]*>: ?")
_REPEATABLE = "; repeat this option to specify a list of values"
KINDS = {
    "int": "INTEGER",
    "float": "NUMBER",
    "comma separated list of strings": "TEXT,TEXT,...",
}


def parse(argv: list[str]) -> list[str]:
    """Parse the flags; what is left are the program's name and other arguments.

    --help prints the help and exits with 0; bad flags become one line on stderr and
    exit code 2.
    """
    show_if_asked(argv)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        reason = " ".join(str(error).split())
        print(f"error: {reason}; see --help", file=sys.stderr)
        sys.exit(USER_ERROR)


def guarded(action: Callable[[], None]) -> None:
    """Do what a generator or importer is asked for.

    Bad input becomes one line on stderr and exit code 2, an interrupt one line and
    exit code 130, without waiting for the calls that are under way.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        action()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("error: interrupted, nothing was written", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)


def check_no_arguments(argv: Sequence[str]) -> None:
    """Refuse arguments that are no flags.

    Raises:
      UserError: there are some beside the program's name.
    """
    if argv[1:]:
        raise UserError(
            f"expected flags as --name=value, found {argv[1]!r}; see --help"
        )


def show_if_asked(argv: Sequence[str]) -> None:
    """Print the help of the running command and exit with 0, if the arguments ask."""
    given = argv[1:]
    if "--" in given:
        given = given[: given.index("--")]
    if any(argument in ASKED for argument in given):
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        name = spec.name.removesuffix(".__main__") if spec else sys.argv[0]
        print(text(name, main.__doc__ or "", flags.FLAGS))
        sys.stdout.flush()
        sys.exit(0)


def text(module: str, description: str, values: flags.FlagValues) -> str:
    """The help of a command.

    Args:
      module: as `python -m` takes it.
      description: the docstring of the command.
      values: flags; those of libraries are left out.
    """
    own = {
        flag.name: flag
        for source, members in values.flags_by_module_dict().items()
        if not source.startswith(LIBRARIES)
        for flag in members
    }
    lines = [f"usage: python -m {module} [--flag=value ...]", ""]
    if description:
        lines += [*_wrapped(description), ""]
    groups = {
        group: [own.pop(name) for name in names if name in own]
        for group, names in GROUPS.items()
    }
    groups[OTHER] = [own[name] for name in sorted(own)]
    for group, members in groups.items():
        if members:
            lines += [f"{group}:", *(line for flag in members for line in _flag(flag))]
            lines.append("")
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


def _flag(flag: flags.Flag) -> Iterator[str]:
    """The lines of one flag: its name with what it takes, and what it is for."""
    yield f"  {_usage(flag)}"
    words = " ".join((flag.help or "").split())
    # What absl adds by itself.
    words = _CHOICES.sub("", words).removesuffix(_REPEATABLE)
    default = _default(flag)
    if default and "efault" not in words:
        words = f"{words.rstrip('.')}. Default: {default}.".lstrip(". ")
    yield from textwrap.wrap(
        words,
        WIDTH,
        initial_indent=" " * 6,
        subsequent_indent=" " * 6,
        break_on_hyphens=False,
    )


def _usage(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"--[no]{flag.name}"
    if isinstance(flag, flags.EnumFlag):
        choices = "|".join(flag.parser.enum_values)
        if len(choices) + len(flag.name) < WIDTH - 5:
            return f"--{flag.name}={choices}"
    return f"--{flag.name}={KINDS.get(flag.flag_type(), 'TEXT')}"


def _default(flag: flags.Flag) -> str:
    value = flag.default
    if value is None or value == [] or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
