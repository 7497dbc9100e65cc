"""N-body systems from a folder that `tools.generate_nbody` wrote.

The folder holds `train.npz`, `valid.npz`, `test.npz` and `metadata.json`. Each split
has `positions` and `velocities` (S, F, n, 3), `charges` or `masses` (S, n), `steps`
(F,), where they were asked for `forces` (S, F, n, 3) and, where the systems differ in
size, `num_bodies` (S,): the entries of a system beyond its number of bodies are
padding. The metadata name the saved `frames`, the SHA-256 of every array and the
fingerprint of them all.

The task: positions and, as the cues say, velocities and forces at one frame ->
positions, velocities or forces at a later one, on complete graphs or on those of the
nearest neighbours at the first frame. Sources: Satorras, Hoogeboom, Welling 2021, arXiv
2102.09844, section 5.1; Brandstetter et al. 2022, arXiv 2110.02905, section 4.1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from demetar import graphs
from demetar.data import base
from demetar.errors import UserError
from demetar.types import Head, Nodes, TaskSpec, VectorInput

FORMAT = 1
SPLITS = ("train", "valid", "test")
TARGETS: Mapping[str, tuple[str, ...]] = {
    "position": ("position",),
    "velocity": ("velocity",),
    "both": ("position", "velocity"),
    "force": ("force",),
}
CUES: Mapping[str, tuple[str, ...]] = {
    "positions": (),
    "velocity": ("velocity",),
    "force": ("velocity", "force"),
}
CONNECTIVITIES = ("complete", "knn")
_STORED = {"position": "positions", "velocity": "velocities", "force": "forces"}
RADIAL_PERCENTILE = 99.9

# What is read of the metadata beside the checksums.
_ENTRIES: Mapping[str, tuple[str, ...]] = {
    "settings": ("system",),
    "units": ("positions", "velocities"),
    "frames": (),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is read of a folder.

    Attributes:
      start_frame, target_frame: frame numbers of input and target.
      target: a key of `TARGETS`, which names the heads.
      cues: a key of `CUES`, which names the vector inputs.
      connectivity: one of `CONNECTIVITIES`.
      num_neighbors: senders per body of 'knn': the nearest bodies at the start frame.
      num_train: training samples, the first of the folder's; None for all.
      batch_size: graphs per batch.
      dtype: 'float32' or 'float64', of everything that the model sees.
    """

    start_frame: int
    target_frame: int
    target: str = "position"
    cues: str = "velocity"
    connectivity: str = "complete"
    num_neighbors: int | None = None
    num_train: int | None = None
    batch_size: int = 100
    dtype: str = "float32"

    @property
    def needs_forces(self) -> bool:
        """Whether the forces of the folder are read."""
        return "force" in (*CUES[self.cues], *TARGETS[self.target])


def load(folder: pathlib.Path, settings: Settings) -> base.Dataset:
    """The N-body data set of a folder.

    Raises:
      UserError: the folder is missing, incomplete, truncated or altered, or does not
        hold the frames, forces or number of samples asked for, or its systems are too
        small for the number of neighbours.
    """
    metadata = read_metadata(folder)
    kind = "charges" if metadata["settings"]["system"] == "charged" else "masses"
    parts: dict[str, dict[str, np.ndarray]] = {}
    for split in SPLITS:
        if split not in metadata["arrays"]:
            raise UserError(
                f"{folder} has no {split} set; generate one with --num_{split} above 0"
            )
        if not {kind, "positions", "velocities"} <= {*metadata["arrays"][split]}:
            raise UserError(
                f"expected positions, velocities and {kind} in the {split} set of "
                f"{folder}, found {', '.join(metadata['arrays'][split]) or 'nothing'}; "
                "generate the data set anew"
            )
        if settings.needs_forces and "forces" not in metadata["arrays"][split]:
            raise UserError(
                f"{folder} has no forces in its {split} set, which --cues=force and "
                "--target=force read; generate it anew with --save_forces"
            )
        arrays = _read_split(folder, split, metadata)
        count = _num_samples(split, arrays, settings, folder)
        parts[split] = _select(arrays, kind, metadata, settings, count, folder)
    splits, start = {}, 0
    for split in SPLITS:
        stop = start + len(parts[split]["position"])
        splits[split] = np.arange(start, stop)
        start = stop
    merged = {
        name: np.concatenate([parts[split][name] for split in SPLITS])
        for name in parts["train"]
    }
    check_neighbors(int(merged["num_bodies"].min()), settings, folder)
    samples = base.to_dtype(_samples(merged, settings), settings.dtype)
    task = _task(metadata, kind, settings, parts["train"], samples)
    packing = base.make_packing(samples, task, settings.batch_size)
    identity = base.identify(
        metadata["fingerprint"], _described(metadata, settings), splits
    )
    return base.Dataset(task, packing, splits, metadata["fingerprint"], identity)


def _described(metadata: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """What decides the numbers beside the arrays and the splits."""
    ignored = ("batch_size", "num_train")  # which the splits tell
    read = dataclasses.asdict(settings)
    return {
        **{name: value for name, value in read.items() if name not in ignored},
        "frames": metadata["frames"],
        "units": metadata["units"],
        "made": metadata["settings"],
    }


def read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    """`metadata.json` of a folder.

    Raises:
      UserError: there is no such file, or it is not of this format.
    """
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text())
        found = metadata["format"]
        if found == FORMAT:
            intact = metadata["fingerprint"] == _fingerprint(metadata["arrays"])
            for entry, names in _ENTRIES.items():
                missing = {*names} - {*metadata[entry]}
                if missing:
                    raise KeyError(f"{entry}.{missing.pop()}")
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not a finished data set: it has no metadata.json; write one "
            "with python -m tools.generate_nbody --out=DIR"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"cannot read {path} ({error!r}); generate the data set anew"
        ) from None
    if found != FORMAT:
        raise UserError(
            f"{path} has format {found}, expected {FORMAT}; generate the data set anew"
        )
    if not intact:
        raise UserError(
            f"{path} was altered: its fingerprint is not that of its checksums; "
            "generate the data set anew"
        )
    return metadata


def _fingerprint(arrays: Mapping[str, Mapping[str, str]]) -> str:
    """SHA-256 of the lines 'split/array:hash' in sorted order, as of the generator."""
    lines = [
        f"{split}/{name}:{digest}"
        for split, digests in arrays.items()
        for name, digest in digests.items()
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _read_split(
    folder: pathlib.Path, split: str, metadata: dict[str, Any]
) -> dict[str, np.ndarray]:
    path = folder / f"{split}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; generate the data set anew") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(
            f"{path} is truncated or damaged ({error}); generate the data set anew"
        ) from None
    expected = metadata["arrays"][split]
    for name in sorted({*arrays, *expected}):
        found = base.array_hash(arrays[name]) if name in arrays else "nothing"
        if found != expected.get(name):
            raise UserError(
                f"{path} was altered: the checksum of {name!r} is {found[:12]}, its "
                f"metadata say {str(expected.get(name))[:12]}; generate it anew"
            )
    return arrays


def _num_samples(
    split: str,
    arrays: dict[str, np.ndarray],
    settings: Settings,
    folder: pathlib.Path,
) -> int:
    available = len(arrays["positions"])
    if split != "train" or settings.num_train is None:
        return available
    if not 1 <= settings.num_train <= available:
        raise UserError(
            f"expected --num_train between 1 and the {available} training samples of "
            f"{folder}, found {settings.num_train}"
        )
    return settings.num_train


def _select(
    arrays: dict[str, np.ndarray],
    kind: str,
    metadata: dict[str, Any],
    settings: Settings,
    count: int,
    folder: pathlib.Path,
) -> dict[str, np.ndarray]:
    """The first `count` systems at the two frames."""
    frames = list(metadata["frames"])
    if len(frames) != arrays["positions"].shape[1]:
        raise UserError(
            f"{folder} was altered: its metadata list {len(frames)} frames, its arrays "
            f"hold {arrays['positions'].shape[1]}; generate the data set anew"
        )
    for frame in (settings.start_frame, settings.target_frame):
        if frame not in frames:
            raise UserError(
                f"{folder} has no frame {frame}; it has "
                f"{frames[0]} to {frames[-1]} ({len(frames)} frames)"
            )
    start, target = (
        frames.index(frame) for frame in (settings.start_frame, settings.target_frame)
    )
    selected = {"charge": arrays[kind][:count]}
    for name, stored in _STORED.items():
        if name != "force" or settings.needs_forces:
            selected[name] = arrays[stored][:count, start]
            selected[f"{name}_target"] = arrays[stored][:count, target]
    sizes = np.full(count, arrays["positions"].shape[2])
    selected["num_bodies"] = arrays.get("num_bodies", sizes)[:count]
    return selected


def check_neighbors(smallest: int, settings: Settings, name: object) -> None:
    """Refuse more neighbours than the smallest system of a data set has.

    Raises:
      UserError: which calls the data set by its `name`.
    """
    if settings.connectivity != "knn":
        return
    if not 1 <= (settings.num_neighbors or 0) < smallest:
        raise UserError(
            f"expected --num_neighbors from 1 to {smallest - 1}, the other bodies of "
            f"the smallest system of {name}, found {settings.num_neighbors}; "
            "--connectivity=complete connects them all"
        )


def _samples(merged: dict[str, np.ndarray], settings: Settings) -> base.Samples:
    """The graph of every system, bodies beyond its size left out."""
    n_node = merged["num_bodies"].astype(np.int32)
    real = np.arange(merged["position"].shape[1]) < n_node[:, None]  # [D, n]
    charges = merged["charge"][real]
    vectors = [merged[name][real] for name in CUES[settings.cues]]
    senders, receivers, n_edge = _edges(merged["position"], n_node, settings)
    starts = np.repeat(np.cumsum(n_node) - n_node, n_edge)
    products = charges[starts + senders] * charges[starts + receivers]
    return base.Samples(
        nodes=Nodes(
            merged["position"][real],
            charges[:, None],
            np.stack(vectors, axis=1) if vectors else np.zeros((len(charges), 0, 3)),
        ),
        edges=products[:, None],
        senders=senders,
        receivers=receivers,
        n_node=n_node,
        n_edge=n_edge,
        targets={
            name: merged[f"{name}_target"][real][:, None]
            for name in TARGETS[settings.target]
        },
    )


def _edges(
    positions: np.ndarray, n_node: np.ndarray, settings: Settings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Senders and receivers of all graphs [sum of n_edge], and n_edge [D]."""
    senders: dict[int, np.ndarray] = {}
    receivers: dict[int, np.ndarray] = {}
    for size in np.unique(n_node).tolist():
        rows = np.flatnonzero(n_node == size)
        if settings.connectivity == "knn":
            degree = settings.num_neighbors or 0
            ends = np.repeat(np.arange(size, dtype=np.int32), degree)
            nearest = graphs.nearest_neighbors(positions[rows, :size], degree)
            starts = nearest.reshape(len(rows), -1)
        else:
            same, ends = graphs.complete_edges(size)
            starts = np.broadcast_to(same, (len(rows), len(same)))
        senders.update(zip(rows, starts, strict=True))
        receivers.update(dict.fromkeys(rows, ends))
    order = range(len(n_node))
    return (
        np.concatenate([senders[row] for row in order]),
        np.concatenate([receivers[row] for row in order]),
        np.array([len(senders[row]) for row in order], np.int32),
    )


def _task(
    metadata: dict[str, Any],
    kind: str,
    settings: Settings,
    train: dict[str, np.ndarray],
    samples: base.Samples,
) -> TaskSpec:
    units = metadata["units"]
    vectors = CUES[settings.cues]
    # A velocity that the model does not know is no base.
    bases = {"position": "positions", "velocity": "velocity" if vectors else ""}
    scales = {"force": _root_mean_square(train, "force_target")}
    heads = [
        Head(
            name,
            "node_vector",
            base=bases.get(name, ""),
            unit=units.get(_STORED[name], ""),
            scale=scales.get(name, 1.0),
        )
        for name in TARGETS[settings.target]
    ]
    scalar = kind.removesuffix("s") if kind == "charges" else "mass"
    edges = int(samples.n_edge[: len(train["position"])].sum())
    nodes = int(samples.n_node[: len(train["position"])].sum())
    receivers, senders = _global_edges(samples, edges)
    positions = samples.nodes.positions
    distances = np.linalg.norm(positions[receivers] - positions[senders], axis=-1)
    extent = np.percentile(distances, RADIAL_PERCENTILE) if edges else 1.0
    return TaskSpec(
        name=f"{metadata['settings']['system']}, frame {settings.start_frame} -> "
        f"{settings.target_frame}",
        heads=tuple(heads),
        scalars=(scalar,),
        vectors=tuple(VectorInput(name) for name in vectors),
        edge_features=(f"{scalar}_product",),
        length_unit=units["positions"],
        connectivity=settings.connectivity,
        num_neighbors=settings.num_neighbors,
        radial_extent=float(np.float32(extent)),
        average_neighbors=edges / nodes,
    )


def _root_mean_square(train: dict[str, np.ndarray], name: str) -> float:
    """Of the components of a vector of the real bodies; 1 where there is none."""
    if name not in train:
        return 1.0
    real = np.arange(train[name].shape[1]) < train["num_bodies"][:, None]  # [D, n]
    size = np.sqrt(np.mean(np.square(train[name][real])))
    return float(np.float32(size)) or 1.0


def _global_edges(samples: base.Samples, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Receivers and senders of the first `count` edges as rows of all nodes."""
    offsets = np.repeat(np.cumsum(samples.n_node) - samples.n_node, samples.n_edge)
    offsets = offsets[:count]
    assert samples.senders is not None and samples.receivers is not None
    return samples.receivers[:count] + offsets, samples.senders[:count] + offsets
