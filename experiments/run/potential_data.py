"""The data of `experiments.potential`: named sets, generated if need be, and files."""

from __future__ import annotations

import pathlib

from demetar.data import frame_sources, potentials
from demetar.data.potentials import Sets, Settings
from demetar.errors import UserError
from experiments.run import generators

GENERATED = "xtb_"  # begins the names of sets that are generated
DEFAULT = f"{GENERATED}ethanol"
DATASETS = (
    f"{GENERATED}M for molecular dynamics of a molecule M, generated on first use, "
    "rmd17_M for one of rMD17, a folder that tools.generate_md wrote, or an extended "
    "xyz or .npz of your own"
)


def load(name: str, root: pathlib.Path, settings: Settings) -> Sets:
    """The frames of a data set; a named one is generated if need be.

    Args:
      name: of the data set, a folder or a file.
      root: where data sets lie.
      settings: what is read.

    Raises:
      UserError: there is no such data set, or it cannot be generated, or is damaged.
    """
    if name.startswith(GENERATED) and not pathlib.Path(name).exists():
        return potentials.load(str(generated(name, root)), root, settings)
    return potentials.load(name, root, settings)


def load_known(name: str, root: pathlib.Path, settings: Settings) -> Sets:
    """The frames of a data set that a run was trained on. Nothing is generated.

    Args:
      name, root, settings: of `load`.

    Raises:
      UserError: as `load` does, or it is not there.
    """
    places = [pathlib.Path(name), root / name]
    is_there = any(place.exists() for place in places)
    if not is_there and not frame_sources.is_rmd17(name):
        raise UserError(
            f"expected the data {name} here or in {root}, found nothing of that name; "
            "start where the run was trained, or give their folder with --data_dir"
        )
    return potentials.load(name, root, settings)


def generated(name: str, root: pathlib.Path) -> pathlib.Path:
    """The folder of a named data set; it is written on first use.

    The generator works in a process of its own.

    Raises:
      UserError: the generator failed.
    """
    folder = root / name
    if (folder / "metadata.json").exists():
        return folder
    molecule = name.removeprefix(GENERATED)
    print(f"generating {name} in {folder}", flush=True)
    generators.run("tools.generate_md", [f"--molecule={molecule}"], folder)
    return folder
