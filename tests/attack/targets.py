"""Every file that the program reads: a small valid one, and how it is read."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demetar import files
from demetar.data import molecule_files, molecules, nbody, nbody_files, qm9, splits
from demetar.errors import UserError
from demetar.train import checkpoint, program_cache, writers
from demetar.types import TaskSpec
from experiments import report
from experiments.run import finished, run_files, workdir
from tests import qm9_test
from tests.support import molecule_texts, nbody_folder
from tools import import_nbody

ROOT = pathlib.Path(__file__).resolve().parents[2]
EPOCHS = 2
TRAINING = (
    *("--model=linear_map", "--dataset=data", "--workdir=run", "--eval_every=1"),
    *(f"--epochs={EPOCHS}", "--cpu_devices=1"),
)
WATER = (("O", 0.0, 0.0, 0.117), ("H", 0.0, 0.757, -0.467), ("H", 0.0, -0.757, -0.467))


@dataclasses.dataclass(frozen=True)
class Target:
    """A file that is damaged.

    Attributes:
      path: of the file.
      read: reads it as the program does; text of the result, '' where the program does
        without the file.
      is_sealed: whether a checksum of its content leaves one result alone.
      is_unsealed: whether a damage took the checksum itself out of the content, which
        then is one of an earlier release.
      is_input: whether nothing else says which content it has, so that another whole
        file in its place is another input.
    """

    path: pathlib.Path
    read: Callable[[], str]
    is_sealed: bool = True
    is_unsealed: Callable[[bytes], bool] = lambda content: False
    is_input: bool = False


def text_of(arrays: Mapping[str, np.ndarray], *others: Any) -> str:
    """Arrays and what is beside them, as one text."""
    own = {name: files.array_hash(array) for name, array in sorted(arrays.items())}
    return repr((own, *others))


def all_targets(folder: pathlib.Path) -> dict[str, Target]:
    """All of them, in an empty folder."""
    return {
        **of_bodies(folder / "bodies"),
        **of_molecules(folder / "molecules"),
        **of_qm9(folder / "qm9"),
        **of_program(folder / "programs"),
        **of_run(make_run(folder / "trained")),
    }


# --- N-body systems -----------------------------------------------------------------


def of_bodies(folder: pathlib.Path) -> dict[str, Target]:
    """A folder of this format, one of format 1, and the inputs of the importer."""
    folder.mkdir()
    inputs = [folder / f"{split}.npz" for split in nbody_files.SPLITS]
    for seed, path in enumerate(inputs):
        arrays = nbody_folder.random_arrays(4, (2, 3), seed, forces=True)
        np.savez(path, **arrays)  # type: ignore[arg-type]
    flags = ["--dt=0.001", "--length_unit=m", f"--out={folder / 'imported'}"]
    import_nbody.run(*import_nbody.LINE.parse([*flags, *map(str, inputs)]))
    nbody_folder.write(folder / "first", (2, 3), splits=dict.fromkeys(SPLITS, 4))

    def read(name: str) -> str:
        place = folder / name
        metadata = nbody_files.read_metadata(place)
        ends = [metadata["frames"][row] for row in (0, -1)]
        found = nbody.load(place, nbody.Settings(*ends))
        leaves = jax.tree.leaves(dataclasses.asdict(found.packing.samples))
        kept = {str(row): np.asarray(leaf) for row, leaf in enumerate(leaves)}
        return text_of(kept, metadata, found.identity, found.task.to_json())

    def importing() -> str:
        kind, parts = import_nbody._read(list(map(str, inputs)))
        return repr([kind, *(text_of(own) for own in parts.values())])

    targets = {
        f"N-body {name}": Target(folder / "imported" / name, lambda: read("imported"))
        for name in (nbody_files.METADATA, *(f"{split}.npz" for split in SPLITS))
    }
    first = folder / "first" / nbody_files.METADATA
    # Without a checksum of the metadata: the next format has it.
    targets["N-body metadata.json of format 1"] = Target(
        first, lambda: read("first"), False
    )
    targets["input of import_nbody"] = Target(inputs[0], importing, False)
    return targets


SPLITS = nbody_files.SPLITS


# --- Molecules ----------------------------------------------------------------------


def _xyz(extended: bool) -> str:
    lines = []
    for row in range(3):
        told = f"energy={-76.4 - row / 10} gap=0.{row + 1}"
        if extended:
            told = f'Properties=species:S:1:pos:R:3:forces:R:3 pbc="F F F" {told}'
        lines += [str(len(WATER)), told]
        for symbol, *position in WATER:
            cells = [symbol, *map(str, position), *(["0.1"] * 3 if extended else [])]
            lines.append(" ".join(cells))
    return "\n".join(lines) + "\n"


def of_molecules(folder: pathlib.Path) -> dict[str, Target]:
    """Own molecules, the cache of them, and files of rows."""
    folder.mkdir()
    (folder / "mine.xyz").write_text(_xyz(False))
    (folder / "extended.xyz").write_text(_xyz(True))
    known = qm9_test.make_molecules(12)
    np.savez(
        folder / "mine.npz",
        numbers=known.numbers,
        positions=known.positions,
        n_atoms=known.n_atoms,
        gap=known.column("gap"),
    )
    molecules.write(folder / "prepared.npz", known)
    _, cache = qm9.cached(folder / "mine.xyz", folder / "cache")
    rows = np.arange(12)
    np.savez(folder / "split.npz", train=rows[:8], valid=rows[8:10], test=rows[10:])

    def cached() -> str:
        return _told(qm9.cached(folder / "mine.xyz", folder / "cache")[0])

    def split() -> str:
        return text_of(splits.split_rows(str(folder / "split.npz"), 12))

    return {
        "own .xyz": _of_molecules(folder / "mine.xyz"),
        "own extended .xyz": _of_molecules(folder / "extended.xyz"),
        "own .npz": _of_molecules(folder / "mine.npz"),
        "prepared .npz": Target(
            folder / "prepared.npz",
            _of_molecules(folder / "prepared.npz").read,
            is_input=True,
        ),
        "cache of molecules": Target(cache, cached),
        "split .npz": Target(folder / "split.npz", split, False),
    }


def _of_molecules(path: pathlib.Path, place: pathlib.Path | None = None) -> Target:
    def read() -> str:
        return _told(molecule_files.load(*molecule_files.find(place or path)))

    return Target(path, read, is_sealed=False)


def _told(known: molecules.Molecules) -> str:
    arrays = {
        name: value
        for name, value in vars(known).items()
        if isinstance(value, np.ndarray)
    }
    return text_of(arrays, known.names, known.units, known.source, known.notes)


def of_qm9(folder: pathlib.Path) -> dict[str, Target]:
    """QM9 as its authors and others publish it."""
    folder.mkdir()
    raw = folder / "dsgdb9nsd_000001.xyz"
    raw.write_text(molecule_texts.gdb(1))
    structures, table = molecule_texts.sdf((1, 2))
    for name, text in (("gdb9.sdf", structures), ("gdb9.sdf.csv", table)):
        (folder / name).write_text(text)
    packed = folder / "archive" / molecule_files.ARCHIVE
    packed.parent.mkdir()
    packed.write_bytes(molecule_texts.archive([molecule_texts.gdb(1)]))
    targets = {
        "raw QM9 .xyz": _of_molecules(raw),
        "gdb9.sdf": _of_molecules(folder / "gdb9.sdf"),
        "gdb9.sdf.csv": _of_molecules(folder / "gdb9.sdf.csv", folder / "gdb9.sdf"),
        "archive of QM9": _of_molecules(packed),
    }
    specification = importlib.util.find_spec("qm9pack")
    if specification and specification.submodule_search_locations:
        place = pathlib.Path(next(iter(specification.submodule_search_locations)))
        own = folder / "wheel"
        own.mkdir()
        for name in molecule_files.WHEEL_FILES:
            with open(place / "data" / name) as file:
                lines = [next(file) for _ in range(4)]
            (own / name).write_text("".join(lines))
        first = own / molecule_files.WHEEL_FILES[0]
        targets["table of qm9pack"] = _of_molecules(first, own)
    return targets


def of_json(path: pathlib.Path) -> Target:
    """Any JSON, and what code does with it later on."""
    path.write_text('{"a": [1, 2.5, null, true, {"b": "c"}], "d": -1e-3}')

    def read() -> str:
        found = files.read_json(path)
        run_files.not_finite(found)
        return f"{files.json_hash(found)} {run_files.run_id(found)}"

    return Target(path, read, is_sealed=False)


# --- Programs and runs --------------------------------------------------------------


def of_program(folder: pathlib.Path) -> dict[str, Target]:
    """A compiled program that is kept."""
    folder.mkdir()
    path = folder / f"one{program_cache.SUFFIX}"
    program_cache._save(path, jax.jit(lambda x: 2 * x).lower(jnp.ones(3)).compile())

    def read() -> str:
        program = program_cache._load(path, jax.devices()[:1])
        return "" if program is None else repr(program(jnp.ones(3)))

    return {"compiled program": Target(path, read)}


def make_run(folder: pathlib.Path) -> pathlib.Path:
    """The work directory of a run that a command made."""
    nbody_folder.write(folder / "data", splits=dict.fromkeys(SPLITS, 4))
    subprocess.run(
        [sys.executable, "-m", "experiments.nbody", *TRAINING],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        check=True,
        capture_output=True,
    )
    return folder / "run"


def of_run(folder: pathlib.Path) -> dict[str, Target]:
    """The files of a work directory, as a second start and the report read them."""
    config = json.loads((folder / workdir.CONFIG_FILE).read_text())
    run_id = config.pop(run_files.RUN_ID)
    task = checkpoint.load_model(folder / workdir.BEST).task

    def second_start() -> str:
        return _second_start(folder, config, task, run_id)

    names = (*(workdir.CONFIG_FILE, workdir.LAST, workdir.BEST, run_files.ERRORS_FILE),)
    record = folder / run_files.RECORD_FILE
    metrics = folder / writers.METRICS_FILE
    return {
        **{name: Target(folder / name, second_start) for name in names},
        record.name: Target(record, second_start, is_unsealed=_has_no_checksum),
        writers.METRICS_FILE: Target(
            metrics,
            lambda: writers._kept_lines(metrics, EPOCHS, run_id).decode(),
            False,
        ),
    }


def _has_no_checksum(content: bytes) -> bool:
    return run_files.CHECKSUM not in json.loads(content)


def _second_start(
    folder: pathlib.Path, config: dict[str, Any], task: TaskSpec, run_id: str
) -> str:
    standing = workdir.check(folder, config, task)
    record = standing.record
    if record is None:  # the training would go on
        return "unfinished"
    last, progress = checkpoint.read(folder / workdir.LAST)
    if "progress" not in progress:  # as `Run.start` refuses a model in its place
        raise UserError("it does not fit")
    best = checkpoint.load_model(folder / workdir.BEST)
    errors = run_files.read_errors(folder, record)
    told = report.markdown(finished.read_runs([str(folder)]))
    read = {name: record.get(name) for name in (*run_files.ENTRIES, "test_loss")}
    arrays = {**last, **_flat(best.params)}
    if errors is not None:
        arrays["errors"] = errors
    digest = hashlib.sha256(told.encode()).hexdigest()
    listed = json.dumps(read, sort_keys=True)  # the order of keys says nothing
    return text_of(arrays, listed, progress, best.metadata, digest, run_id)


def _flat(params: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(keys): np.asarray(leaf) for keys, leaf in leaves}
