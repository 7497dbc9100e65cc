"""Write a split of rMD17: energies and forces of molecules.

    python -m tools.prepare_rmd17 --download --out=DIR          from figshare, 1.1 GB
    python -m tools.prepare_rmd17 --source=ARCHIVE --out=DIR    from files
    python -m experiments.potential --dataset=rmd17_ethanol --data_dir=DIR

A source is the published archive rmd17.tar.bz2, the folder that it unpacks to, or a
folder of files as this command writes them: `rmd17_ethanol_train_01.npz` and
`rmd17_ethanol_test_01.npz`, with the arrays of `demetar.data.rmd17`, MD17's old labels
among them if the source has them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import secrets
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import tqdm

from demetar import archives, files, places
from demetar.data import rmd17
from demetar.errors import UserError
from demetar.settings import DATA, OUTPUT, Bounds, setting
from tools import cli, download
from tools.command_line import CommandLine, Given

_FIGSHARE = "23950376"  # Christensen, von Lilienfeld 2020, 10.6084/m9.figshare.12672038
ARCHIVE = download.File(
    "rmd17.tar.bz2",
    1_066_301_513,
    "cddeea2ec2c4b22a9de16a9a65a3eeedac5b29da9c99c20bbff0153912bf922b",
    (
        f"https://ndownloader.figshare.com/files/{_FIGSHARE}",
        f"https://figshare.com/ndownloader/files/{_FIGSHARE}",
        "https://archive.materialscloud.org/records/pfffs-fff86/files/rmd17.tar.bz2",
    ),
)
_MOST_BYTES = 2**31  # of one file of the archive
_SUFFIXES = (".tar.bz2", ".tar.gz", ".tar")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is read, and what is written."""

    source: str | None = setting(
        None,
        "Archive or folder to read; with --download, where the archive is kept.",
        DATA,
        default_words="with --download, the folder of --out",
    )
    download: bool = setting(False, "Fetch rMD17 from figshare.", DATA)
    molecules: tuple[str, ...] = setting(
        rmd17.MOLECULES, "Molecules to write.", DATA, default_words="all ten"
    )
    fold: int = setting(
        1,
        "The number of the published split.",
        DATA,
        Bounds(least=rmd17.FOLDS[0], most=rmd17.FOLDS[-1]),
    )
    out: str | None = setting(None, "Folder to write into. Required.", OUTPUT)
    overwrite: bool = setting(
        False, "Replace files of other frames that --out holds.", OUTPUT
    )


LINE = CommandLine(Options)


def run(given: Given, _: Sequence[str] = ()) -> None:
    """The command.

    Raises:
      UserError: bad flags, no such source, or a bad file in it.
    """
    options = given.read(Options)
    if not options.out:
        raise UserError("expected --out=DIR, the folder to write into")
    for molecule in options.molecules:
        if molecule not in rmd17.MOLECULES:
            raise UserError(
                f"expected --molecules of {', '.join(rmd17.MOLECULES)}, found "
                f"{molecule[:40]!r}"
            )
    if not options.source and not options.download:
        raise UserError("expected --source=ARCHIVE or FOLDER, or --download")
    out = places.settled(pathlib.Path(options.out))
    source = pathlib.Path(options.source) if options.source else out
    if options.download:
        source = download.fetch(ARCHIVE, source)
    try:
        with _unpacked(source, out, options) as folder:
            for molecule in options.molecules:
                _write(folder, out, molecule, options)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None


def _write(
    folder: pathlib.Path, out: pathlib.Path, molecule: str, options: Options
) -> None:
    """The files of one molecule: all parts are checked before the first is written."""
    fold = options.fold
    place = rmd17.find(folder, molecule, fold)
    if place.resolve() == out.resolve() and _are_split(place, molecule, fold):
        raise UserError(f"expected another --out than the source {place}")
    parts = rmd17.read(place, molecule, fold)
    prints = []
    for part, arrays in parts.items():
        frames = rmd17.to_frames(arrays, "rmd17", f"the {part} frames of {molecule}")
        prints.append(frames.fingerprint())
    paths = {
        out / rmd17.split_file(molecule, part, fold): parts[part] for part in parts
    }
    new = {path: own for path, own in paths.items() if not _holds(path, own)}
    _refuse_others(new, options.overwrite)
    _save(new)
    sizes = " and ".join(f"{len(parts[part]['energies']):,} {part}" for part in parts)
    old = "" if "old_energies" in parts["train"] else ", without MD17's old labels"
    fingerprint = files.json_hash({"parts": prints})[:12]
    there = "" if new else ", there already"
    told = f"{molecule}: {sizes} frames{old}, fingerprint {fingerprint}{there}"
    print(told, flush=True)


def _are_split(place: pathlib.Path, molecule: str, fold: int) -> bool:
    return (place / rmd17.split_file(molecule, "train", fold)).exists()


def _holds(path: pathlib.Path, arrays: rmd17.Arrays) -> bool:
    """Whether a file holds these arrays."""
    try:
        found = archives.read_npz(path)
    except UserError:
        return False
    return found.keys() == arrays.keys() and all(
        files.array_hash(found[name]) == files.array_hash(own)
        for name, own in arrays.items()
    )


def _refuse_others(paths: Iterable[pathlib.Path], overwrite: bool) -> None:
    others = [path for path in paths if path.exists()]
    if others and not overwrite:
        raise UserError(
            f"{others[0]} holds other frames; pass --overwrite to replace it, or name "
            "another --out"
        )


def _save(content: Mapping[pathlib.Path, rmd17.Arrays]) -> None:
    """Write all files, or none: a reader takes none of them without the others."""
    with contextlib.ExitStack() as stack:
        for path, arrays in content.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(files.replacing(path, is_shared=True))
            np.savez(file, **arrays)  # type: ignore[arg-type]
        # All are whole, and now take their places one by one. A kill in between leaves
        # one that nothing is read from, never parts of two sources.
        for path in content:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _unpacked(
    source: pathlib.Path, out: pathlib.Path, options: Options
) -> Iterator[pathlib.Path]:
    """The folder of a source; an archive is unpacked beside the output for a while."""
    if source.is_dir():
        yield source
        return
    if not source.is_file() or not source.name.endswith(_SUFFIXES):
        raise UserError(
            f"expected --source to be a folder or a file {', '.join(_SUFFIXES)}, found "
            f"{source}"
        )
    out.mkdir(parents=True, exist_ok=True)
    folder = out / f".unpacked-{secrets.token_hex(4)}"
    try:
        _unpack(source, folder, _members(options))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _members(options: Options) -> set[str]:
    """The files of the archive that are needed, within its folder."""
    arrays = {f"npz_data/{rmd17.PREFIX}{name}.npz" for name in options.molecules}
    rows = {f"splits/{rmd17.rows_file(part, options.fold)}" for part in rmd17.PARTS}
    return arrays | rows


def _unpack(archive: pathlib.Path, folder: pathlib.Path, needed: set[str]) -> None:
    """Some files of an archive, by the last two parts of their paths.

    Raises:
      UserError: it is damaged, or lacks one of them.
    """
    bar = tqdm.tqdm(total=len(needed), desc=archive.name, unit=" files")
    missing = set(needed)
    try:
        with tarfile.open(archive, "r:*") as content, bar:
            for member in content:
                name = "/".join(member.name.split("/")[-2:])
                if not member.isfile() or name not in missing:
                    continue
                if member.size > _MOST_BYTES:
                    raise UserError(
                        f"expected files of at most {_MOST_BYTES:,} bytes in "
                        f"{archive}, found {member.size:,} in {name!r}"
                    )
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                file = content.extractfile(member)
                assert file is not None  # as it is a file
                with open(path, "wb") as target:
                    shutil.copyfileobj(file, target)
                missing.remove(name)
                bar.update()
                if not missing:
                    return
    except (tarfile.TarError, EOFError, ValueError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, and no damage
        raise UserError(
            f"cannot read {archive} ({files.one_line(error)}); it may be truncated: "
            "fetch it again"
        ) from None
    raise UserError(f"expected {sorted(missing)[0]} in {archive}, found no such file")


if __name__ == "__main__":
    cli.run(run, LINE)
