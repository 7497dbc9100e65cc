"""Make a data set of N-body systems of one's own.

    python -m tools.import_nbody --out=DIR train.npz valid.npz test.npz
    python -m tools.import_nbody --out=DIR --fractions=0.8,0.1,0.1 all.npz
    python -m experiments.nbody --dataset=DIR

The folder is what `experiments.nbody` trains on. Arrays of a file, of S systems at F
times (frames) with n bodies:

    positions   [S, F, n, 3]  needed
    velocities  [S, F, n, 3]  needed
    charges     [S, n]        needed, or masses [S, n] in their place
    forces      [S, F, n, 3]  for --cues=force and --target=force
    num_bodies  [S]           if the systems differ in size; the rest is padding
    steps       [F]           number of each frame's time step, as --steps

Every number must be finite. The files may differ in S and n. Other arrays are left out.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from demetar import archives, files, places
from demetar.data import nbody_files
from demetar.errors import UserError
from demetar.settings import DATA, OUTPUT, setting
from tools import cli, folders, output_folder
from tools.command_line import CommandLine, Given

Arrays = dict[str, np.ndarray]

_HINT = "python -m tools.import_nbody --help lists the arrays"
_UNITS = {
    "positions": "length_unit",
    "velocities": "velocity_unit",
    "forces": "force_unit",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is not in the files."""

    fractions: str = setting(
        "0.8,0.1,0.1",
        "Of one file: its shares of train, valid and test.",
        DATA,
    )
    seed: int = setting(0, "Of one file: seed of the order of its systems.", DATA)
    frames: str | None = setting(
        None,
        "Numbers that the frames get, as 30,40.",
        DATA,
        default_words="0,1,2,...",
    )
    steps: str | None = setting(
        None,
        "Time steps of the frames.",
        DATA,
        default_words="the file's, else those of --frames",
    )
    dt: float | None = setting(
        None, "Time from step to step, which models that integrate need.", DATA
    )
    length_unit: str = setting("", "Unit of the positions, as m.", DATA)
    velocity_unit: str = setting("", "Unit of the velocities, as m/s.", DATA)
    force_unit: str = setting("", "Unit of the forces, as N.", DATA)
    out: str | None = setting(None, "Folder to write, new or empty. Required.", OUTPUT)


LINE = CommandLine(Options, positional="FILE.npz...")


def run(given: Given, paths: Sequence[str]) -> None:
    """Write the folder.

    Raises:
      UserError: bad flags or arrays, or the folder cannot be written. Nothing is left
        behind.
    """
    options = given.read(Options)
    if not options.out:
        raise UserError("expected --out=DIR, the folder to write")
    out = places.settled(pathlib.Path(options.out))
    _check_new(out)
    for flag in _UNITS.values():
        unit = getattr(options, flag)
        if not nbody_files.is_unit(unit):
            raise UserError(
                f"expected --{flag} to be {nbody_files.UNIT}, found {unit[:40]!r}"
            )
    if options.dt is not None and not 0 < options.dt < np.inf:
        raise UserError(f"expected a positive --dt, found {options.dt}")
    kind, parts = _read(paths)
    if len(paths) == 1:
        parts = _split(parts["train"], options.fractions, options.seed)
    frames, steps = _times(options, parts)
    settings: dict[str, Any] = {
        "system": nbody_files.CHARGED if kind == "charges" else "gravity",
    }
    if options.dt is not None:
        settings["dt"] = options.dt
    every = np.unique(np.diff(steps) / np.diff(frames))
    if len(every) == 1 and every[0] == int(every[0]):
        settings["sample_every"] = int(every[0])
    content = {
        "settings": settings,
        "sources": [pathlib.Path(path).name for path in paths],
        "frames": frames,
        "units": {name: getattr(options, flag) for name, flag in _UNITS.items()},
    }
    timed = {split: {**own, "steps": steps} for split, own in parts.items()}
    fingerprint = _write(out, timed, content)
    sizes = ", ".join(f"{len(own[kind])} {split}" for split, own in timed.items())
    print(f"{out} is written: {sizes} systems, fingerprint {fingerprint[:12]}")


def _check_new(out: pathlib.Path) -> None:
    try:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return
    except OSError as error:
        reason = error.strerror or files.one_line(error)
        raise UserError(
            f"cannot write --out={str(out)[:100]}: {reason}; give another folder"
        ) from None
    raise UserError(f"expected --out to be a new or empty folder, found {out}")


def _read(paths: Sequence[str]) -> tuple[str, dict[str, Arrays]]:
    """'charges' or 'masses', and the checked arrays of each file by split."""
    if len(paths) not in (1, 3):
        raise UserError(
            "expected three files, of train, valid and test, or one to be split, found "
            f"{len(paths)}; {_HINT}"
        )
    kind, parts = "", {}
    for split, path in zip(nbody_files.SPLITS, paths, strict=False):
        arrays = archives.read_npz(path, _HINT)
        found = [name for name in ("charges", "masses") if name in arrays]
        if len(found) != 1 or kind not in ("", found[0]):
            raise UserError(
                f"expected {kind or 'charges or masses'} in {path}, found "
                f"{' and '.join(found) or 'neither'}; {_HINT}"
            )
        kind = found[0]
        parts[split] = nbody_files.checked(arrays, kind, None, path, _HINT)
    for name in ("forces", "steps"):
        if len({name in own for own in parts.values()}) > 1:
            raise UserError(f"expected {name} in all files or in none; {_HINT}")
    return kind, parts


def _split(arrays: Arrays, fractions: str, seed: int) -> dict[str, Arrays]:
    """The systems in a random order, dealt to the splits."""
    try:
        shares = np.array([float(part) for part in fractions.split(",")])
    except ValueError:
        shares = np.zeros(0)
    if len(shares) != 3 or not (shares > 0).all() or not shares.sum() <= 1 + 1e-9:
        raise UserError(
            "expected --fractions: three positive numbers with a sum of at most 1, as "
            f"0.8,0.1,0.1; found {fractions!r}"
        )
    if seed < 0:
        raise UserError(f"expected --seed from 0, found {seed}")
    total = len(arrays["positions"])
    stops = np.rint(np.cumsum(shares) * total).astype(int)
    rows = np.split(np.random.default_rng(seed).permutation(total)[: stops[-1]], stops)
    counts = [len(own) for own in rows[:3]]
    if not all(counts):
        raise UserError(
            f"expected a system for each split at least, found {total} systems that "
            f"--fractions={fractions} deals as {', '.join(map(str, counts))}"
        )
    return {
        split: {
            name: values if name == "steps" else values[own]
            for name, values in arrays.items()
        }
        for split, own in zip(nbody_files.SPLITS, rows, strict=False)
    }


def _times(
    options: Options, parts: Mapping[str, Arrays]
) -> tuple[list[int], np.ndarray]:
    """Numbers of the frames and their time steps, [F]."""
    counts = {own["positions"].shape[1] for own in parts.values()}
    known = {tuple(own["steps"].tolist()) for own in parts.values() if "steps" in own}
    if len(counts) > 1 or len(known) > 1:
        raise UserError("expected the same frames and steps in all files, found others")
    (count,) = counts
    frames = _numbers("frames", options.frames, count) or list(range(count))
    steps = _numbers("steps", options.steps, count) or next(iter(known), frames)
    return frames, np.array(steps, np.int64)


def _numbers(flag: str, text: str | None, count: int) -> list[int] | None:
    if text is None:
        return None
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    in_order = found == sorted({*found}) and min(found, default=-1) >= 0
    if len(found) != count or not in_order or found[-1] > 2**53:
        raise UserError(
            f"expected --{flag}: {count} whole numbers from 0 in ascending order, one "
            f"for each frame of the files; found {text!r}"
        )
    return found


def _write(
    out: pathlib.Path, parts: Mapping[str, Arrays], content: Mapping[str, Any]
) -> str:
    """Write the folder, which appears when it is complete; its fingerprint."""
    digests = {
        split: {name: files.array_hash(array) for name, array in arrays.items()}
        for split, arrays in parts.items()
    }
    described = {**content, "arrays": digests}

    def fill(folder: pathlib.Path) -> dict[str, Any]:
        for split, arrays in parts.items():
            np.savez(folder / f"{split}.npz", **arrays)  # type: ignore[arg-type]
        return folders.write_metadata(folder, described)

    return str(output_folder.make(out, described, fill)["fingerprint"])


if __name__ == "__main__":
    cli.run(run, LINE)
