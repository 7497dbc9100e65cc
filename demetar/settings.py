"""Settings: fields of dataclasses that say how a person sets them.

A hyper-parameter is written once, as the field of a dataclass. `setting` puts the words
of its help, its bounds and its choices beside the field; command lines, their help and
their checks are made from these.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from demetar.errors import UserError

# What settings are about, in the order in which a help shows them.
DATA, MODEL, TRAINING, OUTPUT, PROCESSES = GROUPS = (
    *("data", "model", "training", "output", "processes"),
)
MISSING = dataclasses.MISSING
_KEY = "setting"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The numbers that a setting may have; None for no bound.

    Attributes:
      least, most: the smallest and the largest number.
      above, below: bounds that the number itself may not reach.
      advice: what to do about a number outside of them.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    advice: str = ""

    def check(self, name: str, value: float) -> None:
        """Refuse a number outside of the bounds, infinity and NaN.

        Raises:
          UserError: names the flag.
        """
        advice = f"; {self.advice}" if self.advice else ""
        article = "an" if name[0] in "aeiou" else "a"
        if self.above is not None and not self.above < value < math.inf:
            raise UserError(
                f"expected {article} --{name} above {self.above:g}, found {value}"
                f"{advice}"
            )
        if self.least is not None and not self.least <= value < math.inf:
            raise UserError(
                f"expected --{name} of at least {self.least:,}, found {value}{advice}"
            )
        if self.below is not None and value >= self.below:
            raise UserError(
                f"expected {article} --{name} below {self.below:g}, found {value}"
                f"{advice}"
            )
        if self.most is not None and value > self.most:
            raise UserError(
                f"expected --{name} of at most {self.most:,}, found {value}{advice}"
            )

    def describe(self) -> str:
        """The bounds as words; '' if there are none."""
        words = (
            (self.least, "at least {:,}"),
            (self.above, "above {:g}"),
            (self.most, "at most {:,}"),
            (self.below, "below {:g}"),
        )
        return " and ".join(
            form.format(value) for value, form in words if value is not None
        )


NO_BOUNDS = Bounds()
COUNT = Bounds(least=1)
NOT_NEGATIVE = Bounds(least=0)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of a field that a person sets.

    Attributes:
      help: whole sentences on what it is for, with the unit.
      group: one of `GROUPS`.
      bounds: of a number.
      choices: the texts that it may be; () for any.
      default: words that describe the default; '' if its value says it.
      repeatable: whether a flag that lists texts is given once for each of them;
        otherwise commas part them.
    """

    help: str
    group: str
    bounds: Bounds = NO_BOUNDS
    choices: tuple[str, ...] = ()
    default: str = ""
    repeatable: bool = False


def setting(
    default: Any,
    text: str,
    group: str,
    bounds: Bounds = NO_BOUNDS,
    choices: Sequence[str] = (),
    default_words: str = "",
    repeatable: bool = False,
) -> Any:
    """A field of a dataclass that a person sets; see `Setting`.

    Args:
      default: its value if nobody does; `MISSING` if it must be given.
    """
    told = Setting(text, group, bounds, tuple(choices), default_words, repeatable)
    return dataclasses.field(default=default, metadata={_KEY: told})


def fields_of(owner: Any) -> Iterator[tuple[dataclasses.Field[Any], Setting]]:
    """The settings among the fields of a dataclass, or of an instance of one.

    Those of dataclasses within an instance follow at their place.
    """
    for field in dataclasses.fields(owner):
        value = None if isinstance(owner, type) else getattr(owner, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value)
        elif _KEY in field.metadata:
            yield field, field.metadata[_KEY]


def defaults_of(owner: type) -> dict[str, Any]:
    """The defaults of the settings of a dataclass, by name; None if it has none."""
    return {
        field.name: None if field.default is MISSING else field.default
        for field, _ in fields_of(owner)
    }


def values_of(owner: Any) -> dict[str, Any]:
    """The settings of an instance and of the dataclasses within it, by name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if dataclasses.is_dataclass(value):
            found |= values_of(value)
        elif _KEY in field.metadata:
            found[field.name] = value
    return found


def replaced(owner: T, values: Mapping[str, Any]) -> T:
    """A copy with the settings of these names, within its dataclasses too.

    Names that it does not have are left aside.
    """
    own = {}
    for field in dataclasses.fields(owner):  # type: ignore[arg-type]
        value = getattr(owner, field.name)
        if dataclasses.is_dataclass(value):
            own[field.name] = replaced(value, values)
        elif _KEY in field.metadata and field.name in values:
            own[field.name] = values[field.name]
    return dataclasses.replace(owner, **own)  # type: ignore[type-var]
