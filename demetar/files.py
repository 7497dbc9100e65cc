"""Files that people give: JSON, `.npz` and text, read with bounds and clear errors.

Every fault of a file ends in one `UserError` that names the file. What a file claims
is held against its length before memory is taken, and no object is ever unpickled. All
code that reads JSON or `.npz` reads it here.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import math
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from demetar.errors import UserError

PathLike = str | os.PathLike[str]

MOST_JSON_BYTES = 2**28
# Arrays that are compressed beyond this ratio, and that take more than this memory, are
# taken for a bomb.
MOST_RATIO = 50
FREE_BYTES = 2**28
MOST_CHARACTERS = 300  # of what an error of a library says
MOST_HEADER_BYTES = 10_000  # of one array; NumPy's own bound

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1  # flag of a member
_KINDS = "biufcSUV"  # numbers, text, and void for the types that NumPy does not know
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
        or holds anything but one JSON object with each key once.
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
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"as JSON ({one_line(error)})", hint) from None
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise _unreadable(path, f": expected a JSON object, found {kind}", hint)
    return found


def read_json_lines(path: PathLike, hint: str = "") -> list[dict[str, Any]]:
    """The JSON objects of a file with one per line.

    A last line without an end is left out: its writer was killed.

    Raises:
      UserError: as `read_json`; the line is named.
    """
    content = _bytes_of(path, MOST_JSON_BYTES, hint)
    *lines, _ = content.split(b"\n")
    return [
        parse_json(line, f"{os.fspath(path)}, line {number}", hint)
        for number, line in enumerate(lines, 1)
    ]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {twice!r} more than once")
    return found


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


# --- .npz ---------------------------------------------------------------------------


def read_npz(
    path: PathLike, hint: str = "", mapped: bool | None = False
) -> dict[str, np.ndarray]:
    """All arrays of a `.npz` file, each checked against its CRC-32.

    Args:
      path: file to read.
      hint: ends the error: what to do.
      mapped: whether arrays stay on the disk until they are read; they cannot be
        written then, and must be stored without compression. None: as many as are.

    Returns:
      {name: array} in native byte order.

    Raises:
      UserError: the file is missing, cannot be read, is no `.npz`, is damaged,
        encrypted, or compressed by another method than deflate; an array holds objects
        or structures; or the arrays are larger than the file can fill.
    """
    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            # An empty file cannot be mapped, and is no archive.
            whole = None
            if mapped is not False and length:
                whole = np.memmap(path, np.uint8, "r")
            return dict(_members(file, length, whole, mapped is None))
    except OSError as error:
        raise _unopened(path, error, hint) from None
    except Exception as error:
        # Zip, NumPy and zlib fail in a dozen ways, by the place of the damage.
        reason = f": it is damaged or no .npz ({one_line(error)})"
        raise _unreadable(path, reason, hint) from None


def parse_npz(content: bytes, path: PathLike, hint: str = "") -> dict[str, np.ndarray]:
    """As `read_npz`, of bytes that were read from `path`.

    Raises:
      UserError: as `read_npz`.
    """
    try:
        return dict(_members(io.BytesIO(content), len(content), None))
    except Exception as error:
        reason = f": it is damaged or no .npz ({one_line(error)})"
        raise _unreadable(path, reason, hint) from None


def _members(
    file: BinaryIO, length: int, whole: np.ndarray | None, may_read: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of each member of an archive of so many bytes.

    A compressed member is read although `whole` is given if `may_read` says so.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _check_members(members, length)
        for member in members:
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as stream:
                dtype, shape, order = _header(stream, name)
                start = stream.tell()
                size = dtype.itemsize * math.prod(shape)
                if size != member.file_size - start:
                    raise ValueError(
                        f"{name!r} claims {size} bytes, {member.file_size - start} "
                        "are there"
                    )
                is_stored = member.compress_type == zipfile.ZIP_STORED
                if whole is None or (may_read and not is_stored):
                    data: Any = stream.read()  # checks the CRC-32 at its end
                    if len(data) != size:
                        raise ValueError(f"{name!r} ends early")
                else:
                    data = _mapped(file, whole, member)[start:]
            array = np.frombuffer(data, dtype).reshape(shape, order=order)
            yield name, array.astype(dtype.newbyteorder("="), copy=False)


def _check_members(members: Sequence[zipfile.ZipInfo], length: int) -> None:
    names = [member.filename for member in members]
    if len({*names}) < len(names):
        raise ValueError("it has an array more than once")
    for member in members:
        if not member.filename.endswith(".npy"):
            raise ValueError(f"{member.filename!r} is no array")
        if member.flag_bits & _ENCRYPTED:
            raise ValueError(f"{member.filename!r} is encrypted")
        if member.compress_type not in _METHODS:
            raise ValueError(
                f"{member.filename!r} is compressed by method {member.compress_type}, "
                "which is neither none nor deflate"
            )
        stored = member.compress_type == zipfile.ZIP_STORED
        if member.compress_size > length or (
            stored and member.file_size != member.compress_size
        ):
            raise ValueError(f"{member.filename!r} is longer than the file")
    total = sum(member.file_size for member in members)
    if total > max(FREE_BYTES, MOST_RATIO * length):
        raise ValueError(
            f"its arrays take {total} bytes, more than {MOST_RATIO} times its own "
            f"{length}; if they are meant, store them with numpy.savez"
        )


def _header(stream: Any, name: str) -> tuple[np.dtype, tuple[int, ...], Any]:
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"{name!r} has .npy version {version}")
    shape, fortran, dtype = readers[version](stream, max_header_size=MOST_HEADER_BYTES)
    if dtype.hasobject or dtype.kind not in _KINDS or dtype.fields or dtype.subdtype:
        raise ValueError(f"{name!r} holds {dtype}, expected plain numbers")
    if any(size < 0 for size in shape):
        raise ValueError(f"{name!r} has the shape {shape}")
    return dtype, shape, "F" if fortran else "C"


def _mapped(file: BinaryIO, whole: np.ndarray, member: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of a stored member of the mapped file."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename!r} is compressed")
    place = member.header_offset + 26  # lengths of the name and of the extra field
    name_size, extra_size = struct.unpack("<HH", whole[place : place + 4].tobytes())
    start = member.header_offset + 30 + name_size + extra_size
    content = whole[start : start + member.file_size].view(np.ndarray)
    if len(content) != member.file_size or zlib.crc32(content.data) != member.CRC:
        raise ValueError(f"the checksum of {member.filename!r} is wrong")
    return content


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
                    raise _unreadable(path, ": it is no text", hint)
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
        raise _unopened(path, error, hint) from None
    return encoding


# --- Errors -------------------------------------------------------------------------


def _bytes_of(path: PathLike, most: int, hint: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise _unopened(path, error, hint) from None
    if len(content) > most:
        raise _unreadable(path, f": it has more than {most} bytes", hint)
    return content


def _unopened(path: PathLike, error: OSError, hint: str) -> UserError:
    return _unreadable(path, f": {error.strerror or one_line(error)}", hint)


def _unreadable(path: PathLike, reason: str, hint: str) -> UserError:
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
        raise _unopened(path, error, hint) from None
