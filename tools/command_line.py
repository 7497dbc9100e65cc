"""Command lines from settings: the flags of dataclasses, parsed and checked.

absl parses them, in a set of flags of the command's own: what another command has is
unknown to it.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from absl import flags

from demetar import settings
from demetar.errors import UserError

T = TypeVar("T")

MOST_DIGITS = 18  # of a number that is typed; Python parses no more than 4,300
# What absl understands without its being a flag of the command.
_HIDDEN = ("flagfile", "undefok")


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
      name: as in --name=value.
      kind: its type: bool, int, float, str, or tuple for several texts or integers.
      item: type of the items of a tuple.
      told: its help, bounds and choices.
      default: words for the help; '' if there is none to tell.
      may_be_empty: whether a tuple may be given without items, as its default is.
    """

    name: str
    kind: type
    item: type
    told: settings.Setting
    default: str
    may_be_empty: bool

    def define(self, values: flags.FlagValues) -> None:
        """Let absl parse it. Its value there is None unless it is given."""
        text = self.told.help
        if self.kind is tuple:
            many = flags.DEFINE_multi_string if self.told.repeatable else None
            (many or flags.DEFINE_list)(self.name, None, text, values)
        elif self.told.choices:
            choices = list(self.told.choices)
            flags.DEFINE_enum(self.name, None, choices, text, values)
        else:
            kinds: dict[type, Callable[..., Any]] = {
                bool: flags.DEFINE_bool,
                int: flags.DEFINE_integer,
                float: flags.DEFINE_float,
                str: flags.DEFINE_string,
            }
            kinds[self.kind](self.name, None, text, flag_values=values)

    def checked(self, value: Any) -> Any:
        """A value that was given, as the field of a dataclass takes it.

        Raises:
          UserError: it is out of bounds, of another type, or empty if it may not be.
        """
        if self.kind is tuple:
            items = tuple(value)
            if not items and not self.may_be_empty:
                raise UserError(
                    f"expected at least one item in --{self.name}, found none; leave "
                    f"the flag out for {self.default}"
                )
            if self.item is int:
                return positive_integers(self.name, items)
            if "" in items and not self.told.repeatable:
                raise UserError(
                    f"expected texts between the commas of --{self.name}, found none "
                    "at one place"
                )
            return items
        if self.kind in (int, float):
            self.told.bounds.check(self.name, value)
        return value


def flags_of(owner: type, defaults: str | Mapping[str, str] = "") -> Iterator[Flag]:
    """The flags of the settings of a dataclass.

    Args:
      owner: the dataclass.
      defaults: words for the defaults, in place of their values: for all of them, or by
        the name of the field.
    """
    hints = typing.get_type_hints(owner)
    for field, told in settings.fields_of(owner):
        kind, item = _kind(hints[field.name])
        given = defaults if isinstance(defaults, str) else defaults.get(field.name)
        words = given or told.default or _default(field.default)
        yield Flag(field.name, kind, item, told, words, not field.default)


def _kind(hint: Any) -> tuple[type, type]:
    """The type of a flag and of its items, by the annotation of its field."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        return tuple, typing.get_args(hint)[0]
    return hint, hint


def _default(value: Any) -> str:
    if value is None or value is settings.MISSING or value in ((), ""):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class Given(Mapping[str, Any]):
    """The flags that a person gave, by name, checked; one that was not is missing.

    Attributes:
      repeated: names of those that come from a file of settings.
      fields: of the model, that come from such a file.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        repeated: Iterable[str] = (),
        fields: Mapping[str, Any] | None = None,
    ):
        self._values = dict(values)
        self.repeated = frozenset(repeated)
        self.fields = dict(fields or {})

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def plus(self, name: str, value: Any) -> Given:
        """These and one more."""
        return Given({**self, name: value}, self.repeated, self.fields)

    def without(self, name: str) -> Given:
        """The others."""
        values = {other: value for other, value in self.items() if other != name}
        return Given(values, self.repeated - {name}, self.fields)

    def only(self, owner: type) -> dict[str, Any]:
        """Those that are settings of a dataclass."""
        names = {field.name for field, _ in settings.fields_of(owner)}
        return {name: value for name, value in self.items() if name in names}

    def read(self, owner: type[T]) -> T:
        """A dataclass with the settings that were given, else with its defaults."""
        return owner(**self.only(owner))


class CommandLine:
    """The flags of a command.

    Args:
      *owners: dataclasses with settings, or pairs of one and words for its defaults
        as `flags_of` takes them, or flags of another command.
      positional: what the arguments that are no flags are, as 'DIR...'; '' if the
        command takes none.
    """

    def __init__(self, *owners: Any, positional: str = ""):
        self.flags: dict[str, Flag] = {}
        for owner in owners:
            pair = owner if isinstance(owner, tuple) else (owner, "")
            found = [owner] if isinstance(owner, Flag) else flags_of(*pair)
            self.flags |= {flag.name: flag for flag in found}
        self.positional = positional

    def parse(self, arguments: Sequence[str]) -> tuple[Given, list[str]]:
        """The flags that are given, and the other arguments.

        Raises:
          UserError: an unknown flag, a value that is none, or an argument that is no
            flag if the command takes none.
        """
        values = flags.FlagValues()
        for flag in self.flags.values():
            flag.define(values)
        self._refuse_hidden(arguments)
        try:
            _, *others = values(["", *arguments])
        except flags.UnrecognizedFlagError as error:
            raise self._unknown(error.flagname) from None
        except flags.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{reason}; see --help") from None
        if others and not self.positional:
            raise UserError(
                f"expected flags as --name=value, found {others[0]!r}; see --help"
            )
        found = {name: values[name].value for name in self.flags}
        return Given(
            {
                name: self.flags[name].checked(value)
                for name, value in found.items()
                if value is not None
            }
        ), others

    def _refuse_hidden(self, arguments: Sequence[str]) -> None:
        for argument in arguments:
            name = argument.lstrip("-").partition("=")[0]
            if argument == "--":
                return
            if argument.startswith("-") and name in _HIDDEN:
                raise self._unknown(name)

    def _unknown(self, name: str) -> UserError:
        """The error about a flag that there is not, with the one that is meant."""
        near = difflib.get_close_matches(name, self.flags, 1, 0.7)
        near += [other for other in self.flags if other in name or name in other]
        guess = f"; did you mean --{near[0]}?" if near and name else ""
        return UserError(f"Unknown command line flag {name!r}{guess}; see --help")


def positive_integers(flag: str, items: Sequence[Any]) -> tuple[int, ...]:
    """The numbers of a flag that lists them.

    Raises:
      UserError: an item is no positive integer.
    """
    texts = [str(item) for item in items]
    for text in texts:
        if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) < 1:
            raise UserError(f"expected positive integers in --{flag}, found {text!r}")
    return tuple(map(int, texts))
