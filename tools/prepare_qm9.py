"""Write QM9, or own molecules, as one file.

    python -m tools.prepare_qm9 --out=qm9.npz                    from qm9pack
    python -m tools.prepare_qm9 --source=FOLDER --out=qm9.npz    from files
    python -m tools.prepare_qm9 --download --out=qm9.npz         from figshare
    python -m experiments.qm9 --data_dir=qm9.npz --model=egnn

`experiments.qm9` maps the file into memory. Sources are those of
`demetar.data.molecule_files`.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

import tqdm

from demetar import places
from demetar.data import molecule_files, molecules
from demetar.errors import UserError
from demetar.settings import DATA, OUTPUT, setting
from tools import cli, download
from tools.command_line import CommandLine, Given

_FIGSHARE = "3195389"  # Ramakrishnan et al. 2014, doi 10.6084/m9.figshare.978904
ARCHIVE = download.File(
    molecule_files.ARCHIVE,
    86_144_227,
    "3a63848ac80691bdb8d41834b575afad345b9300d7a2db0c38adb7f6eaa8360c",
    (
        f"https://ndownloader.figshare.com/files/{_FIGSHARE}",
        f"https://springernature.figshare.com/ndownloader/files/{_FIGSHARE}",
        "https://s3-eu-west-1.amazonaws.com/pstorage-npg-968563215/"
        f"{_FIGSHARE}/{molecule_files.ARCHIVE}",
    ),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is read, and what is written."""

    source: str | None = setting(
        None,
        "Folder or file to read; with --download, where the archive is kept.",
        DATA,
        default_words="the installed qm9pack, or the folder of --out",
    )
    download: bool = setting(False, "Fetch QM9 from figshare.", DATA)
    out: str | None = setting(None, "File to write, .npz. Required.", OUTPUT)
    overwrite: bool = setting(False, "Replace another file that --out is.", OUTPUT)


LINE = CommandLine(Options)


def run(given: Given, _: Sequence[str] = ()) -> None:
    """The command.

    Raises:
      UserError: bad flags, no such source, or a bad row in it.
    """
    options = given.read(Options)
    if not options.out or not options.out.endswith(".npz"):
        raise UserError(f"expected --out=FILE.npz, found {options.out!r}")
    if options.source == "":
        raise UserError("expected --source=FILE or FOLDER, found an empty text")
    out = places.settled(pathlib.Path(options.out))
    source = pathlib.Path(options.source) if options.source else None
    if options.download:
        source = download.fetch(ARCHIVE, source or out.parent)
    kind, paths = molecule_files.find(source)
    for path in paths:
        if _is_same(out, path):
            raise UserError(f"expected another --out than the source {path}")
    known = molecule_files.load(kind, paths, progress)
    is_there = out.exists() and _holds(out, known)
    if not is_there:
        if out.exists() and not options.overwrite:
            raise UserError(
                f"--out={options.out} holds something else; pass --overwrite to "
                "replace it, or name another"
            )
        molecules.write(out, known)
    print(
        f"{options.out} is {'there already' if is_there else 'written'}, "
        f"{len(known.index):,} molecules, fingerprint {known.fingerprint[:12]}"
    )
    for note in known.notes:
        print(note)


def _holds(path: pathlib.Path, known: molecules.Molecules) -> bool:
    """Whether a file holds these molecules."""
    try:
        return molecules.read(path).fingerprint == known.fingerprint
    except UserError:
        return False


def _is_same(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Whether two paths are of one file, through links or other spellings."""
    try:
        return first.samefile(second)
    except OSError:  # the first is not there yet
        return False


def progress(items: Iterable, description: str, total: int | None) -> Iterable:
    """The items, with a progress bar on stderr."""
    return tqdm.tqdm(items, description, total, unit=" molecules")


if __name__ == "__main__":
    cli.run(run, LINE)
