"""The comment line of an xyz file: free text, or that of extended xyz.

What is `name=value` is read, spaces around the equals sign allowed; values may stand in
quotes, or in brackets of any kind. All other words are passed over. The grammar is that
of ASE's extended xyz (a test compares the two), with these differences: a quote or
bracket means something only right behind an equals sign, so that free text may have
any; exponents may be Fortran's; and what looks like a property that went wrong is an
error, where ASE takes it for text. So there is one reader, whether ASE is installed or
not.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import NamedTuple

from demetar.data.readers import text

_PAIR = re.compile(
    r"""(?<!\S)(?P<name>[^\s=]++)\s*+=\s*+
    (?:
      (?P<quoted>"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'
        |\{[^{}]*+\}|\[[^\[\]]*+\]|\([^()]*+\))(?=[,;]*+(?!\S))
      |(?P<bare>\S*+)
    )""",
    re.VERBOSE,
)
_NAME = re.compile(r"[^\W\d][\w()./+*-]*")
_INFINITE = re.compile(r"inf(inity)?", re.IGNORECASE)
_TRUTH = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
_TYPES = ("S", "R", "I", "L")  # of columns: text, real, whole, logical


class Columns(NamedTuple):
    """Where the columns of the atoms are.

    Attributes:
      total: how many there are; None: any number.
      element: of the symbol or the atomic number.
      position: of x; y and z follow.
      vectors: of all columns of three real numbers by their names, as `position`.
    """

    total: int | None
    element: int
    position: int
    vectors: Mapping[str, int] = types.MappingProxyType({})


PLAIN = Columns(None, 0, 1)  # element x y z, and perhaps more


class Comment(NamedTuple):
    """What a comment line says.

    Attributes:
      properties: numbers by their names, NaN if unknown.
      smiles: '' if there is none.
      columns: of the atoms' lines.
      passed: what is no single number: texts, lists, truth values, by their names.
    """

    properties: dict[str, float]
    smiles: str
    columns: Columns
    passed: Mapping[str, str]


def parse(line: str, tolerant: bool = False) -> Comment:
    """What a comment line says.

    Args:
      line: the text.
      tolerant: whether what looks like a property that went wrong is passed over, for
        a reader that asks for few of them.

    Raises:
      ValueError: a name has two values or none, a value is neither a number nor a text
        nor a list, the columns make no sense, or the cell is periodic.
    """
    found: dict[str, str] = {}
    passed: dict[str, str] = {}
    for match in _PAIR.finditer(line):
        name = match["name"]
        quoted = match["quoted"]
        value = match["bare"] if quoted is None else quoted[1:-1]
        if name.lower() == "smiles" and quoted and quoted[0] not in "\"'":
            value = quoted  # an atom in brackets
        if not _NAME.fullmatch(name):
            passed[name] = value
            continue
        key = name.lower() if name.lower() in _SPECIAL else name
        if key in found:
            raise ValueError(f"{name[:40]!r} has two values")
        takes_next = quoted is None and _is_pair(value) and key != "smiles"
        if takes_next or (not value and not (tolerant and key not in _SPECIAL)):
            raise ValueError(f"{name[:40]!r} has no value that can be read")
        found[key] = value
    special = {name: found.pop(name, "") for name in _SPECIAL}
    _check_cell(special["lattice"] or _cell(found), special["pbc"])
    properties = {}
    for name, value in found.items():
        single = _single(name, value, tolerant)
        if single is None:
            passed[name] = value
        else:
            properties[name] = single
    columns = special["properties"]
    return Comment(
        properties,
        special["smiles"],
        _columns(columns) if columns else PLAIN,
        passed,
    )


_SPECIAL = ("properties", "lattice", "pbc", "smiles")


def _is_pair(value: str) -> bool:
    """Whether a value is the next name with its own value: in 'a= b=3'."""
    name, equals, _ = value.partition("=")
    return bool(equals) and (not name or bool(_NAME.fullmatch(name)))


def _words(value: str) -> list[str]:
    return [word for word in re.split(r"[\s,;]+", value) if word]


def _single(name: str, value: str, tolerant: bool) -> float | None:
    """The number that a value is; None if it is a text or a list of numbers."""
    words = _words(value)
    if not words and tolerant:
        return None
    if not words:
        raise ValueError(f"{name[:40]!r} has no value")
    is_text = value[0].isalpha() or value[0] == "_"
    if is_text and not _INFINITE.fullmatch(value) and not _is_number(words[0]):
        return None
    try:
        numbers = [text.number(word, unknown=True) for word in words]
    except ValueError as error:
        if tolerant:
            return None
        raise ValueError(f"{name[:40]!r}: {error}") from None
    return numbers[0] if len(numbers) == 1 else None


def _is_number(word: str) -> bool:
    try:
        text.number(word, unknown=True)
    except ValueError:
        return False
    return True


def _cell(found: Mapping[str, str]) -> str:
    """The vectors of a cell that is called so, which ASE calls Lattice; '' if none."""
    vectors = (value for name, value in found.items() if name.lower() == "cell")
    value = next(vectors, "")
    numbers = [word for word in _words(value) if _is_number(word)]
    has_size = any(text.number(word, unknown=True) for word in numbers)
    return value if len(numbers) in (3, 6, 9) and has_size else ""


def _check_cell(lattice: str, pbc: str) -> None:
    """Refuse a periodic cell; extended xyz is periodic unless it says otherwise."""
    words = [word.lower() for word in _words(pbc.strip("\"'{}[]()"))]
    if len(words) not in (0, 1, 3) or not _TRUTH.keys() >= set(words):
        raise ValueError(f"pbc={pbc[:40]!r} is neither T nor F for each direction")
    if any(_TRUTH[word] for word in words) or (lattice and not words):
        raise ValueError(
            "it has a periodic cell (Lattice or pbc), which is not supported; if the "
            'molecule stands alone, write pbc="F F F"'
        )


def _columns(declared: str) -> Columns:
    """The columns of `Properties=species:S:1:pos:R:3`."""
    parts = declared.split(":")
    shown = f"Properties={declared[:80]}"
    if len(parts) % 3:
        raise ValueError(f"{shown} is no list of name:type:count")
    places: dict[str, tuple[int, str, int]] = {}
    total = 0
    for name, kind, count in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        size = text.whole(count)
        if kind not in _TYPES or not 1 <= size <= 1_000:
            raise ValueError(f"{shown} has a column {name}:{kind}:{count}")
        if name in places:
            raise ValueError(f"{shown} has {name!r} twice")
        places[name] = total, kind, size
        total += size
    position, kind, size = places.get("pos", (0, "", 0))
    if (kind, size) != ("R", 3):
        raise ValueError(f"{shown} has no pos:R:3")
    for name, kinds in (("Z", "I"), ("species", "SI")):  # species may be labels
        element, kind, size = places.get(name, (0, "-", 0))
        if kind in kinds and size == 1:
            vectors = {
                name: start
                for name, (start, kind, size) in places.items()
                if (kind, size) == ("R", 3)
            }
            return Columns(total, element, position, vectors)
    raise ValueError(f"{shown} has neither species:S:1 nor Z:I:1")
