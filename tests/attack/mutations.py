"""Seeded ways to damage the content of a file."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

HUGE = (*("0", "-1", "1e308", "9" * 19, "9" * 400, "1e999", "NaN", "-Infinity"), "8.5")
OTHERS: tuple[Any, ...] = (
    *(None, True, 0, -1, 2.5, 10**400, float("nan"), float("inf"), "", "x", "\ud800"),
    *([], {}, [[]], [None], {"a": 1}, "9" * 5000),
)
MOST_RANGE = 64


def damage(
    content: bytes, generator: random.Random, others: Sequence[bytes]
) -> tuple[str, bytes]:
    """What was done, and the damaged content.

    Args:
      content: of a valid file.
      generator: decides all.
      others: contents of other files, one of which may take the place of this one.
    """
    ways = [*PLAIN]
    if content.startswith(b"PK"):
        ways += [_rebuilt_archive, _huge_in_archive]
    elif _is_json(content):
        ways += [_json] * 4
    if b"\0" not in content:
        ways += [_digits, _huge_number]
    if others:
        ways.append(lambda _, own: own.choice(others))
        names = [*(way.__name__ for way in ways[:-1]), "_swap"]
    else:
        names = [way.__name__ for way in ways]
    row = generator.randrange(len(ways))
    return names[row].strip("_"), ways[row](content, generator)


def _range(content: bytes, generator: random.Random) -> tuple[int, int]:
    start = generator.randrange(len(content) + 1)
    return start, min(start + generator.randint(1, MOST_RANGE), len(content))


def _flip(content: bytes, generator: random.Random) -> bytes:
    if not content:
        return b"\1"
    place = generator.randrange(len(content))
    changed = content[place] ^ (1 << generator.randrange(8))
    return content[:place] + bytes([changed]) + content[place + 1 :]


def _truncate(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content) + 1)]


def _delete(content: bytes, generator: random.Random) -> bytes:
    start, stop = _range(content, generator)
    return content[:start] + content[stop:]


def _duplicate(content: bytes, generator: random.Random) -> bytes:
    start, stop = _range(content, generator)
    return content[:stop] + content[start:stop] + content[stop:]


def _insert(content: bytes, generator: random.Random) -> bytes:
    start, stop = _range(content, generator)
    return content[:start] + generator.randbytes(stop - start + 1) + content[start:]


def _overwrite(content: bytes, generator: random.Random) -> bytes:
    start, stop = _range(content, generator)
    return content[:start] + generator.randbytes(stop - start) + content[stop:]


def _empty(content: bytes, generator: random.Random) -> bytes:
    return b""


def _lines(content: bytes, generator: random.Random) -> bytes:
    """Lines in another order, one of them missing or twice."""
    rows = content.split(b"\n")
    first, second = generator.randrange(len(rows)), generator.randrange(len(rows))
    kind = generator.randrange(3)
    if kind == 0:
        rows[first], rows[second] = rows[second], rows[first]
    elif kind == 1:
        del rows[first]
    else:
        rows.insert(second, rows[first])
    return b"\n".join(rows)


PLAIN: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_flip, _truncate, _delete, _duplicate, _insert, _overwrite, _empty, _lines),
)


# --- Text ---------------------------------------------------------------------------


def _digits(content: bytes, generator: random.Random) -> bytes:
    """Another digit in place of one."""
    found = [match.start() for match in re.finditer(rb"\d", content)]
    if not found:
        return _flip(content, generator)
    place = generator.choice(found)
    digit = generator.choice(b"0123456789")
    return content[:place] + bytes([digit]) + content[place + 1 :]


def _huge_number(content: bytes, generator: random.Random) -> bytes:
    """A number that is none, or a hostile one, in place of one."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    if not found:
        return _flip(content, generator)
    match = generator.choice(found)
    text = generator.choice(HUGE).encode()
    return content[: match.start()] + text + content[match.end() :]


# --- JSON ---------------------------------------------------------------------------


def _is_json(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except ValueError:
        return False


def _json(content: bytes, generator: random.Random) -> bytes:
    """An entry, at any depth, that is missing, of another kind, nested or elsewhere."""
    whole = json.loads(content)
    place: Any = whole
    key: Any = generator.choice(list(place)) if place else None
    while key is not None and generator.random() < 0.6:
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner:
            break
        place = inner
        key = generator.choice(
            [*range(len(inner))] if isinstance(inner, list) else [*inner]
        )
    if key is None:
        return b"[]"
    kind = generator.randrange(4)
    if kind == 0:
        del place[key]
    elif kind == 1:
        place[key] = generator.choice(OTHERS)
    elif kind == 2:
        place[key] = [place[key]]
    elif isinstance(place, dict):
        place[f"{key}_"] = place.pop(key)
    else:
        place.append(place[key])
    if generator.random() < 0.02:
        return b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    return json.dumps(whole).encode()


# --- .npz ---------------------------------------------------------------------------


def _rebuilt_archive(content: bytes, generator: random.Random) -> bytes:
    """One array altered, and all checksums of the archive made anew."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = generator.choice(list(members))
    except (ValueError, LookupError, OSError, zipfile.BadZipFile, zlib.error):
        return _flip(content, generator)  # it is damaged already
    kind = generator.randrange(4)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[generator.choice(["x.npy", "header.npy", "../x.npy", "x"])] = (
            members.pop(name)
        )
    elif kind == 2:
        members[name] = generator.choice(PLAIN)(members[name], generator)
    else:
        members[name] = _other_array(members[name], generator)
    return _archive(members, generator)


def _archive(members: dict[str, bytes], generator: random.Random) -> bytes:
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    (method,) = generator.choices(methods, (8, 2, 1))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, own in members.items():
            archive.writestr(zipfile.ZipInfo(name), own, method)
    return target.getvalue()


def _other_array(content: bytes, generator: random.Random) -> bytes:
    """The array of a `.npy` with another type, shape or entry."""
    try:
        array = np.load(io.BytesIO(content))
    except (ValueError, EOFError, OSError):
        return _flip(content, generator)  # it is damaged already
    if array.dtype.kind == "U":
        return _flip(content, generator)
    kinds: tuple[Callable[[], np.ndarray], ...] = (
        lambda: array.astype(generator.choice([">f8", "c16", "?", "i1", "f2", "U8"])),
        lambda: array.reshape(-1),
        lambda: array[..., None],
        lambda: array[:0] if array.ndim else np.zeros(0),
        lambda: np.array(generator.choice([0, -1, 2.5, "x", 2**62])),
        lambda: _altered(array, generator),
    )
    target = io.BytesIO()
    with np.errstate(all="ignore"):
        np.save(target, generator.choice(kinds)())
    return target.getvalue()


def _altered(array: np.ndarray, generator: random.Random) -> np.ndarray:
    values = np.array(array)
    if values.size and values.dtype.kind in "iuf":
        bad = (np.nan, np.inf, 1e300, -1) if values.dtype.kind == "f" else (0, 1, 127)
        values.reshape(-1)[generator.randrange(values.size)] = generator.choice(bad)
    return values


def _huge_in_archive(content: bytes, generator: random.Random) -> bytes:
    """A huge size in place of one, in a header of the archive or of an array."""
    places = [match.start() + 14 for match in re.finditer(b"PK\3\4", content)]
    places += [match.start() + 16 for match in re.finditer(b"PK\1\2", content)]
    shapes = list(re.finditer(rb"'shape': \(([^)]*)\), }( *)", content))
    if shapes and generator.random() < 0.5:
        match = generator.choice(shapes)
        size = generator.choice(["2000000000,", "-1,", "2,2", "9" * 30 + ",", ""])
        text = f"'shape': ({size}), }}".encode().ljust(len(match[0]))
        return content[: match.start()] + text + content[match.end() :]
    place = generator.choice(places or [0]) + 4 * generator.randrange(4)
    number = generator.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**30])
    return content[:place] + struct.pack("<I", number) + content[place + 4 :]
