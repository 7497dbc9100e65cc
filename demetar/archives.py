"""Archives of arrays that people give: `.npz` files, read with bounds and clear errors.

Every fault of a file ends in one `UserError` that names the file. What a file claims
is held against its length before memory is taken, and no object is ever unpickled. All
code that reads `.npz` reads it here.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from demetar import files

# Arrays that are compressed beyond this ratio, and that take more than this memory, are
# taken for a bomb.
MOST_RATIO = 50
FREE_BYTES = 2**28
MOST_HEADER_BYTES = 10_000  # of one array; NumPy's own bound

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1  # flag of a member
_KINDS = "biufcSUV"  # numbers, text, and void for the types that NumPy does not know


def read_npz(
    path: files.PathLike, hint: str = "", mapped: bool | None = False
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
        raise files.unopened(path, error, hint) from None
    except Exception as error:
        # Zip, NumPy and zlib fail in a dozen ways, by the place of the damage.
        reason = f": it is damaged or no .npz ({files.one_line(error)})"
        raise files.unreadable(path, reason, hint) from None


def read_shapes(path: files.PathLike, hint: str = "") -> dict[str, tuple[int, ...]]:
    """The shapes of all arrays of a `.npz` file, whose content is not read.

    Raises:
      UserError: the file is missing, cannot be read or is no `.npz`.
    """
    found = {}
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    found[name] = _header(stream, name)[1]
    except OSError as error:
        raise files.unopened(path, error, hint) from None
    except Exception as error:
        reason = f": it is damaged or no .npz ({files.one_line(error)})"
        raise files.unreadable(path, reason, hint) from None
    return found


def parse_npz(
    content: bytes, path: files.PathLike, hint: str = ""
) -> dict[str, np.ndarray]:
    """As `read_npz`, of bytes that were read from `path`.

    Raises:
      UserError: as `read_npz`.
    """
    try:
        return dict(_members(io.BytesIO(content), len(content), None))
    except Exception as error:
        reason = f": it is damaged or no .npz ({files.one_line(error)})"
        raise files.unreadable(path, reason, hint) from None


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
