"""Settings from the config.json of an earlier run, in place of flags."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from demetar import files, settings
from demetar.errors import UserError
from experiments.protocols.nbody import SETTLED
from experiments.run import run_files, workdir
from tools.command_line import CommandLine, Flag, Given

# What a config.json says beside the flags.
_DERIVED = frozenset(
    {
        *("dataset", "fields", "origin", "fingerprint", "model_source"),
        *(workdir.IDENTITY, run_files.RUN_ID),
    }
)
# A flag that is given anew takes along what the file says of these.
_DEPEND: Mapping[str, tuple[str, ...]] = {
    "model": ("protocol", "phase"),
    "dataset": (*SETTLED, "data_seed", "full_data", "num_valid", "num_test"),
    "connectivity": ("num_neighbors", "cutoff"),
}
_NEEDED = ("model", "dataset", "fields", "epochs", "seed")
_HINT = "give --config the work directory of a run, or the config.json in it"


def merged(given: Given, line: CommandLine, module: str) -> Given:
    """The flags, with those of the file that --config names where none are given.

    Args:
      given: the flags of the command line.
      line: all flags of the command.
      module: of the command, as the error calls it.

    Raises:
      UserError: the file is no config.json of this command.
    """
    if "config" not in given:
        return given
    path = _file(given)
    config = files.read_json(path, _HINT)
    _check(path, config, line, module, given)
    anew = [name for name in _DEPEND if given.get(name) not in (None, config.get(name))]
    left_out = {*given, *(other for name in anew for other in _DEPEND[name])}
    found = {
        name: _value(path, line.flags[name], value)
        for name, value in config.items()
        if name in line.flags and name not in left_out and value is not None
    }
    fields = {} if "model" in anew else config["fields"]
    return Given({**found, **given}, found, fields)


def _check(
    path: pathlib.Path,
    config: Mapping[str, Any],
    line: CommandLine,
    module: str,
    given: Given,
) -> None:
    """Refuse what is no config.json of a run of this command."""
    missing = [name for name in _NEEDED if name not in config]
    if missing or not isinstance(config["fields"], dict):
        raise UserError(
            f"{path} is no config.json of a run: it lacks "
            f"{', '.join(missing) or 'fields of a model'}; {_HINT}"
        )
    unknown = sorted({*config} - {*line.flags} - _DERIVED)
    if not unknown:
        _check_place(path, config, line, given)
        return
    of_data = {
        flag.name for flag in line.flags.values() if flag.told.group == settings.DATA
    }
    told = ", ".join(name[:40] for name in unknown[:5])
    if len(of_data & {*config}) < len({*unknown}):
        raise UserError(
            f"{path} is of another command than {module}, which knows no {told}; give "
            "it to the command of that run"
        )
    raise UserError(
        f"{path} has settings that {module} does not know: {told}; remove them"
    )


def _check_place(
    path: pathlib.Path, config: Mapping[str, Any], line: CommandLine, given: Given
) -> None:
    """Refuse molecules of one's own, whose place no file tells, without that place."""
    placeless = "dataset" not in line.flags and config["dataset"] != "qm9"
    if placeless and "data_dir" not in given:
        raise UserError(
            f"{path} is of the molecules {config['dataset']!r} and does not say where "
            "they lie; give --data_dir too"
        )


def _value(path: pathlib.Path, flag: Flag, value: Any) -> Any:
    """A value of the file as that of a flag.

    Raises:
      UserError: the flag cannot have it.
    """
    kinds: dict[type, tuple[type, ...]] = {float: (int, float), tuple: (list,)}
    is_kind = isinstance(value, kinds.get(flag.kind, flag.kind))
    is_number = flag.kind in (int, float)
    if flag.kind is tuple and is_kind:
        is_kind = all(isinstance(item, flag.item) for item in value)
    is_choice = not flag.told.choices or value in flag.told.choices
    if not is_kind or not is_choice or (is_number and isinstance(value, bool)):
        expected = " or ".join(flag.told.choices) or flag.kind.__name__
        raise UserError(
            f"expected {flag.name} in {path} to be {expected}, found "
            f"{repr(value)[:60]}; mend it, or give --{flag.name}"
        )
    return flag.checked(float(value) if flag.kind is float else value)


def note(given: Given, fingerprint: str) -> str:
    """A line that tells that the data are not those of the repeated run; '' if not.

    Args:
      given: the flags.
      fingerprint: of the data.
    """
    typed = {*given} - given.repeated
    if "config" not in given or typed & {"dataset", "data_seed", "num_bodies"}:
        return ""
    path = _file(given)
    earlier = files.read_json(path, _HINT).get("fingerprint")
    if not isinstance(earlier, str) or earlier == fingerprint:
        return ""
    return (
        f"note      the data have fingerprint {fingerprint[:12]}, those of {path} had "
        f"{earlier[:12]}: the numbers will be others"
    )


def _file(given: Given) -> pathlib.Path:
    path = pathlib.Path(given["config"])
    return path / workdir.CONFIG_FILE if path.is_dir() else path
