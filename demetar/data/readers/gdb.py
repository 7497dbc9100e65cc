"""QM9 as its authors publish it: one text file per molecule, or an archive of them.

Source: Ramakrishnan et al. 2014, doi 10.1038/sdata.2014.22, table 2.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import pathlib
import re
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any, Self

from demetar import elements, files
from demetar.data.molecules import MOST_ATOMS, Record
from demetar.data.readers import text
from demetar.errors import UserError

PATTERN = "dsgdb9nsd_*.xyz"  # names of the files

MOST_BYTES = 2**20  # of one file
MOST_TOTAL = 2**32  # of all files of an archive; QM9 takes less than 2^29

# Tag, number and 15 properties.
_SECOND_LINE = re.compile(rb"\s*gdb\s+\d+(?:\s+[^\s=]+){15}\s*")

_COMPRESSED: dict[bytes, Callable[[pathlib.Path], Any]] = {
    b"BZh": bz2.BZ2File,
    b"\x1f\x8b": gzip.GzipFile,
    b"\xfd7zXZ": lzma.LZMAFile,
}


def is_one(path: pathlib.Path) -> bool:
    """Whether the xyz file at `path` is one of QM9's own."""
    try:
        with open(path, "rb") as file:
            file.readline(1_000)
            return _SECOND_LINE.fullmatch(file.readline(1_000)) is not None
    except OSError:
        return False


def of_archive(paths: list[pathlib.Path]) -> Iterator[Record]:
    """The molecules of an archive.

    Raises:
      UserError: it cannot be read, or a file of it is bad or too large.
    """
    members = _members(paths[0])
    while True:
        try:
            found = next(members, None)
        except UserError:
            raise
        except Exception as error:
            # tarfile, zlib, bz2 and lzma fail in a dozen ways, by the place of the
            # damage.
            raise UserError(
                f"cannot read {paths[0]} ({files.one_line(error)}); it may be "
                "truncated: fetch it again"
            ) from None
        if found is None:
            return
        place, content = found
        yield _record(place, content)


class _Bounded(tarfile.TarInfo):
    """A member of an archive, refused before it is read if it is too large."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The member of a header of 512 bytes; long names are members too."""
        member = super().frombuf(buf, encoding, errors)
        if member.size > MOST_BYTES:
            raise UserError(
                f"expected files of at most {MOST_BYTES:,} bytes in an archive of QM9, "
                f"found {member.size:,} in {member.name[:80]!r}"
            )
        return member


def _members(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """Place and content of each xyz file of an archive."""
    total = 0
    with (
        _unpacked(path) as content,
        tarfile.open(fileobj=content, mode="r|", tarinfo=_Bounded) as archive,
    ):
        for member in archive:
            total += member.size
            if total > MOST_TOTAL:
                raise UserError(
                    f"expected at most {MOST_TOTAL:,} bytes of files in {path}, "
                    "found more"
                )
            if member.isfile() and member.name.endswith(".xyz"):
                file = archive.extractfile(member)
                assert file is not None  # as it is a file
                yield f"{path.name}, {files.one_line(member.name)}", file.read()


def _unpacked(path: pathlib.Path) -> IO[bytes]:
    """The archive without its compression, unpacked as far as it is read.

    tarfile itself unpacks 10 kB at a time, which can be gigabytes.
    """
    with open(path, "rb") as file:
        start = file.read(8)
    for mark, opened in _COMPRESSED.items():
        if start.startswith(mark):
            found: IO[bytes] = opened(path)
            return found
    return open(path, "rb")


def of_files(paths: list[pathlib.Path]) -> Iterator[Record]:
    """The molecules of some files, one each.

    Raises:
      UserError: a file cannot be read, or is bad.
    """
    for path in paths:
        with open(path, "rb") as file:
            yield _record(path.name, file.read(MOST_BYTES))


def _record(place: str, content: bytes) -> Record:
    """One file: size, tag and properties, atoms, frequencies, SMILES."""
    with text.naming(place):
        lines = content.decode("ascii").splitlines()
        size = text.whole(lines[0].strip() if lines else "")
        if not 1 <= size <= MOST_ATOMS or len(lines) < 4 + size:
            raise ValueError(f"{size} atoms announced in a file of {len(lines)} lines")
        if any(line.strip() for line in lines[5 + size :]):
            raise ValueError("it goes on behind the molecule")
        tag, index, *properties = lines[1].split()
        if tag != "gdb":
            raise ValueError(f"its second line begins with {tag[:40]!r}, not with gdb")
        atoms = [line.split() for line in lines[2 : 2 + size]]
        if any(len(atom) != 5 for atom in atoms):
            raise ValueError("expected an element, x, y, z and a charge per atom")
        return Record(
            place,
            text.whole(index),
            [elements.number_of(atom[0]) for atom in atoms],
            [text.number(word) for atom in atoms for word in atom[1:4]],
            list(map(text.number, properties)),
            next(iter(lines[3 + size].split()), ""),
        )
    raise AssertionError("unreachable")
