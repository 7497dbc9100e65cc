"""Files that people give: JSON, text and the numbers in them, with clear errors.

Every fault of a file ends in one `UserError` that names the file. All code that reads
JSON reads it here; `demetar.archives` reads arrays. What is written takes its place
when it is whole (`replacing`).
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from demetar.errors import UserError

PathLike = str | os.PathLike[str]

MOST_JSON_BYTES = 2**28
MOST_JSON_DEPTH = 100  # of nested objects and lists
MOST_CHARACTERS = 300  # of what an error of a library says

_TEMPORARY = ".tmp"

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def one_line(error: object) -> str:
    """What an error says, in one line; long ones are cut."""
    text = " ".join(str(error).split())
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]}..."
    return text or type(error).__name__


# --- JSON ---------------------------------------------------------------------------


def read_json(
    path: PathLike, hint: str = "", non_finite: str = "refuse"
) -> dict[str, Any]:
    """The JSON object of a file.

    Args:
      path: file to read, in UTF-8, with or without a byte order mark.
      hint: ends the error: what to do.
      non_finite: what becomes of NaN and infinities: 'refuse', 'keep', or 'null'.

    Raises:
      UserError: the file is missing, cannot be read, is larger than `MOST_JSON_BYTES`,
        or holds anything but one JSON object with each key once, whose text can be
        printed and whose integers a float can hold, nested up to `MOST_JSON_DEPTH`.
    """
    content = _bytes_of(path, MOST_JSON_BYTES, hint)
    return parse_json(content, path, hint, non_finite)


def parse_json(
    content: bytes, path: PathLike, hint: str = "", non_finite: str = "refuse"
) -> dict[str, Any]:
    """As `read_json`, of bytes that were read from `path`.

    Raises:
      UserError: as `read_json`.
    """
    number = _NUMBERS[non_finite]
    try:
        found = json.loads(
            content.decode("utf-8-sig"),
            object_pairs_hook=_once,
            parse_constant=number,
            parse_float=number,
        )
        _check_values(found)
    except (ValueError, RecursionError, OverflowError) as error:
        raise unreadable(path, f"as JSON ({one_line(error)})", hint) from None
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise unreadable(path, f": expected a JSON object, found {kind}", hint)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {twice!r} more than once")
    return found


def _check_values(found: Any) -> None:
    """Refuse what code further on would fail at."""
    level = [found]
    for _ in range(MOST_JSON_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value, *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                value.encode()  # fails for half of a surrogate pair
            elif isinstance(value, int):
                float(value)
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested more than {MOST_JSON_DEPTH} deep")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _finite_or_none(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


# How a number is read that may not be finite.
_NUMBERS: dict[str, Callable[[str], float | None]] = {
    "refuse": _finite,
    "keep": float,
    "null": _finite_or_none,
}


# --- Arrays -------------------------------------------------------------------------


def describe(array: np.ndarray) -> str:
    """Type and shape of an array, as errors name them."""
    return f"{array.dtype}{list(array.shape)}"


def real_numbers(
    array: np.ndarray,
    name: str,
    place: object,
    shape: Sequence[int | None],
    axes: Sequence[str] = (),
) -> np.ndarray:
    """The array as finite float64 numbers.

    Integers are numbers too; booleans, complex numbers and text are not.

    Args:
      array: as it was read.
      name: of the array, for the error.
      place: where it was read: a file, or a file and its part.
      shape: that it must have; None: any size.
      axes: what the axes count, for the error.

    Raises:
      UserError: it is of another type or shape, or has a NaN or an infinity, whose
        index is named.
    """
    if array.dtype.kind not in "iuf" or not fits(array.shape, shape):
        raise UserError(
            f"expected real numbers {shown(shape)} in {name!r} of {place}, "
            f"found {describe(array)}"
        )
    with np.errstate(over="ignore"):  # of a longer type; it is refused as infinite
        values = array.astype(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        index = tuple(map(int, np.argwhere(bad)[0]))
        where = ", ".join(
            f"{axis} {row}" for axis, row in zip(axes, index, strict=bool(axes))
        )
        raise UserError(
            f"expected finite numbers in {name!r} of {place}, found "
            f"{values[index]} at {where or list(index)} (from 0), "
            f"{int(bad.sum())} in all; "
            "leave that sample out or mend it"
        )
    return values


def whole_numbers(
    array: np.ndarray,
    name: str,
    place: object,
    shape: Sequence[int | None],
    least: int = 0,
    most: int = 2**31 - 1,
) -> np.ndarray:
    """The array as int64; numbers such as 8.0 are whole too, 6.9 is not.

    Args:
      array, name, place, shape: of `real_numbers`.
      least, most: bounds of the numbers.

    Raises:
      UserError: it is of another type or shape, or a number is not whole or out of
        bounds; its index is named.
    """
    if array.dtype.kind not in "iuf" or not fits(array.shape, shape):
        raise UserError(
            f"expected whole numbers {shown(shape)} in {name!r} of {place}, "
            f"found {describe(array)}"
        )
    if array.dtype.kind == "f":
        array = array.astype(np.float64)  # in which the bounds can be told
    with np.errstate(invalid="ignore"):
        bad = ~((array >= least) & (array <= most) & (np.floor(array) == array))
    if bad.any():
        index = tuple(map(int, np.argwhere(bad)[0]))
        raise UserError(
            f"expected whole numbers from {least} to {most} in {name!r} of {place}, "
            f"found {array[index]} at {list(index)} (from 0)"
        )
    return array.astype(np.int64)


def fits(found: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Whether a shape is as expected; None: any size."""
    return len(found) == len(expected) and all(
        size in (None, own) for own, size in zip(found, expected, strict=True)
    )


def shown(shape: Sequence[int | str | None]) -> str:
    """A shape as errors name it."""
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


def array_hash(array: np.ndarray, dtype: str | None = None) -> str:
    """SHA-256 of an array's type, shape and bytes in C order.

    Args:
      array: of numbers.
      dtype: that it is cast to first; None for its own.
    """
    array = np.asarray(array, dtype, order="C")
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.reshape(-1).data if array.size else b"")
    return digest.hexdigest()


def json_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of what JSON can hold, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# --- Text ---------------------------------------------------------------------------


def text_encoding(path: PathLike, hint: str = "") -> str:
    """The encoding of a text file: by its byte order mark, else UTF-8, else Latin-1.

    Raises:
      UserError: the file is missing or cannot be read, or is no text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    encoding = "utf-8"
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            for mark, marked in _BYTE_ORDER_MARKS.items():
                if start.startswith(mark):
                    return marked
            file.seek(0)
            while chunk := file.read(2**20):
                if b"\0" in chunk:
                    raise unreadable(path, ": it is no text", hint)
                if encoding == "utf-8":
                    try:
                        decoder.decode(chunk)
                    except UnicodeDecodeError:
                        encoding = "latin-1"
            if encoding == "utf-8":
                decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "latin-1"
    except OSError as error:
        raise unopened(path, error, hint) from None
    return encoding


# --- Errors -------------------------------------------------------------------------


def _bytes_of(path: PathLike, most: int, hint: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise unopened(path, error, hint) from None
    if len(content) > most:
        raise unreadable(path, f": it has more than {most} bytes", hint)
    return content


def unopened(path: PathLike, error: OSError, hint: str) -> UserError:
    """The error of a file that the system does not open; `hint` says what to do."""
    return unreadable(path, f": {error.strerror or one_line(error)}", hint)


def unreadable(path: PathLike, reason: str, hint: str) -> UserError:
    """The error of a file whose content is wrong; `hint` says what to do."""
    spaced = reason if reason.startswith(":") else f" {reason}"
    return UserError(f"cannot read {os.fspath(path)}{spaced}{hint and f'; {hint}'}")


def read_bytes(path: pathlib.Path, hint: str = "") -> bytes:
    """All bytes of a file.

    Raises:
      UserError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise unopened(path, error, hint) from None


@contextlib.contextmanager
def replacing(path: pathlib.Path, is_shared: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when it is whole.

    A reader sees the earlier file or the whole new one, also if the writer is killed or
    the disk is full.

    Args:
      path: of the file.
      is_shared: whether several processes may write it at once. If not, what a killed
        writer left is overwritten by the next one.

    Raises:
      OSError: it cannot be written. An earlier file is then as it was.
    """
    owner = f".{os.getpid()}" if is_shared else ""
    temporary = path.with_name(f".{path.name}{owner}{_TEMPORARY}")
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def is_temporary(path: pathlib.Path) -> bool:
    """Whether a killed writer may have left this file."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)
