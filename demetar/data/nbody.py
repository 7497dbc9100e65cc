"""N-body systems from a folder in the format of `demetar.data.nbody_files`.

The task: positions and, as the cues say, velocities and forces at one frame ->
positions, velocities or forces at a later one, on complete graphs or on those of the
nearest neighbours at the first frame. Sources: Satorras, Hoogeboom, Welling 2021, arXiv
2102.09844, section 5.1; Brandstetter et al. 2022, arXiv 2110.02905, section 4.1.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from demetar.data import edges, nbody_files
from demetar.data.dataset import Dataset, identify
from demetar.data.nbody_files import SPLITS
from demetar.data.packing import make_packing
from demetar.data.samples import Samples, centred, to_dtype
from demetar.errors import UserError
from demetar.settings import COUNT, DATA, MISSING, NOT_NEGATIVE, setting
from demetar.types import Head, Nodes, TaskSpec, VectorInput

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
OF_THE_DATA = "the data set's own"  # default of what a data set settles


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is read of a folder.

    Attributes:
      batch_size: graphs per batch.
      dtype: 'float32' or 'float64', of everything that the model sees.
    """

    start_frame: int = setting(
        MISSING, "Frame that the model sees.", DATA, NOT_NEGATIVE, (), OF_THE_DATA
    )
    target_frame: int = setting(
        MISSING, "Frame that it predicts.", DATA, NOT_NEGATIVE, (), OF_THE_DATA
    )
    target: str = setting(
        "position",
        "What is predicted. The loss of both is the mean of the two.",
        DATA,
        choices=tuple(TARGETS),
    )
    cues: str = setting(
        "velocity",
        "Vector inputs: positions alone, the velocity too, or the velocity and the "
        "force.",
        DATA,
        choices=tuple(CUES),
    )
    connectivity: str = setting(
        "complete",
        "Edges of the graphs: between all bodies, or from the nearest neighbours.",
        DATA,
        choices=CONNECTIVITIES,
        default_words=OF_THE_DATA,
    )
    num_neighbors: int | None = setting(
        None,
        "Bodies from which each one hears with --connectivity=knn: the nearest at the "
        "start frame.",
        DATA,
        COUNT,
        default_words=OF_THE_DATA,
    )
    num_train: int | None = setting(
        None,
        "Training samples: the first of the whole set.",
        DATA,
        default_words=OF_THE_DATA,
    )
    batch_size: int = 100
    dtype: str = "float32"

    @property
    def needs_forces(self) -> bool:
        """Whether the forces of the folder are read."""
        return "force" in (*CUES[self.cues], *TARGETS[self.target])


def load(folder: pathlib.Path, settings: Settings) -> Dataset:
    """The N-body data set of a folder.

    Raises:
      UserError: the folder is missing, incomplete, truncated or altered, or holds
        numbers that are none, or does not hold the frames, forces or number of samples
        asked for, or its systems are too small for the number of neighbours.
    """
    metadata = nbody_files.read_metadata(folder)
    frames = _frame_rows(metadata["frames"], settings, folder)
    parts = {
        split: _read(folder, split, metadata, settings, frames) for split in SPLITS
    }
    _check_same_steps({split: own.pop("steps", None) for split, own in parts.items()})
    stops = np.cumsum([len(parts[split]["num_bodies"]) for split in SPLITS])
    splits = {
        split: np.arange(stop - len(parts[split]["num_bodies"]), stop)
        for split, stop in zip(SPLITS, stops, strict=True)
    }
    merged = {
        name: np.concatenate([parts[split][name] for split in SPLITS])
        for name in parts["train"]
    }
    check_neighbors(int(merged["num_bodies"].min()), settings, folder)
    heads = _heads(metadata, settings, parts["train"])
    samples = _samples(merged, settings, heads)
    task = _task(metadata, settings, heads, samples, len(splits["train"]))
    samples = to_dtype(samples, settings.dtype)
    packing = make_packing(samples, task, settings.batch_size)
    fingerprint = metadata["fingerprint"]
    identity = identify(fingerprint, _described(metadata, settings), splits)
    return Dataset(task, packing, splits, fingerprint, identity)


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


def _frame_rows(
    frames: list[int], settings: Settings, folder: pathlib.Path
) -> tuple[int, int]:
    """Rows of the start frame and of the target frame in the arrays."""
    wanted = (settings.start_frame, settings.target_frame)
    for frame in wanted:
        if frame not in frames:
            raise UserError(
                f"{folder} has no frame {frame}; it has "
                f"{frames[0]} to {frames[-1]} ({len(frames)} frames)"
            )
    return frames.index(wanted[0]), frames.index(wanted[1])


def _read(
    folder: pathlib.Path,
    split: str,
    metadata: Mapping[str, Any],
    settings: Settings,
    frames: tuple[int, int],
) -> dict[str, np.ndarray]:
    """The systems of a split at two frames, bodies after bodies without padding.

    Returns:
      `num_bodies` [S]; `charge` [N] and, of each vector at both frames, [N, 3]; the
      `steps` [F] if the file tells them.
    """
    if split not in metadata["arrays"]:
        raise UserError(
            f"{folder} has no {split} set; generate one with --num_{split} above 0"
        )
    if settings.needs_forces and "forces" not in metadata["arrays"][split]:
        raise UserError(
            f"{folder} has no forces in its {split} set, which --cues=force and "
            "--target=force read; generate it anew with --save_forces"
        )
    arrays = nbody_files.read_split(folder, split, metadata)
    count = len(arrays["positions"])
    if split == "train" and settings.num_train is not None:
        if not 1 <= settings.num_train <= count:
            raise UserError(
                f"expected --num_train between 1 and the {count} training samples of "
                f"{folder}, found {settings.num_train}"
            )
        count = settings.num_train
    sizes = arrays["num_bodies"][:count]
    real = np.arange(arrays["positions"].shape[2]) < sizes[:, None]  # [S, n]
    charges = arrays[nbody_files.sources(metadata)]
    selected = {"num_bodies": sizes, "charge": charges[:count][real]}
    for name, stored in _STORED.items():
        if name != "force" or settings.needs_forces:
            start, target = (arrays[stored][:count, frame][real] for frame in frames)
            selected |= {name: start, f"{name}_target": target}
    if "steps" in arrays:
        selected["steps"] = arrays["steps"]
    return selected


def _check_same_steps(steps: Mapping[str, np.ndarray | None]) -> None:
    """Refuse splits whose frames lie at other times than those of another split."""
    told = {split: own.tolist() for split, own in steps.items() if own is not None}
    for split, own in told.items():
        first = next(iter(told))
        if own != told[first]:
            raise UserError(
                "expected the same steps in every split, found "
                f"{_ends(told[first])} in {first} and {_ends(own)} in {split}; "
                "give each frame one time in all"
            )


def _ends(steps: list[int]) -> str:
    return f"{steps[0]} to {steps[-1]} ({len(steps)} steps)"


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


def _samples(
    merged: dict[str, np.ndarray], settings: Settings, heads: tuple[Head, ...]
) -> Samples:
    """The graph of every system, with its centre at the origin."""
    n_node = merged["num_bodies"].astype(np.int32)
    charges = merged["charge"]
    vectors = [merged[name] for name in CUES[settings.cues]]
    samples = Samples(
        nodes=Nodes(
            merged["position"],
            charges[:, None],
            np.stack(vectors, axis=1) if vectors else np.zeros((len(charges), 0, 3)),
        ),
        edges=np.zeros((0, 1)),
        senders=None,
        receivers=None,
        n_node=n_node,
        n_edge=n_node,
        targets={head.name: merged[f"{head.name}_target"][:, None] for head in heads},
    )
    samples = centred(samples, heads)
    positions = np.asarray(samples.nodes.positions)
    senders, receivers, n_edge = _edges(positions, n_node, settings)
    starts = np.repeat(np.cumsum(n_node) - n_node, n_edge)
    products = charges[starts + senders] * charges[starts + receivers]
    return dataclasses.replace(
        samples,
        edges=products[:, None],
        senders=senders,
        receivers=receivers,
        n_edge=n_edge,
    )


def _edges(
    positions: np.ndarray, n_node: np.ndarray, settings: Settings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Senders and receivers of all graphs [sum of n_edge], and n_edge [D]."""
    if settings.connectivity == "knn":
        found = edges.nearest(positions, n_node, settings.num_neighbors or 0)
    else:
        found = edges.complete(n_node)
    return *found.ends(n_node), found.n_edge.astype(np.int32)


def _heads(
    metadata: Mapping[str, Any], settings: Settings, train: dict[str, np.ndarray]
) -> tuple[Head, ...]:
    # A velocity that the model does not know is no base.
    known = CUES[settings.cues]
    bases = {"position": "positions", "velocity": "velocity" if known else ""}
    scales = {"force": _root_mean_square(train.get("force_target", np.zeros(1)))}
    return tuple(
        Head(
            name,
            "node_vector",
            base=bases.get(name, ""),
            unit=metadata["units"].get(_STORED[name], ""),
            scale=scales.get(name, 1.0),
        )
        for name in TARGETS[settings.target]
    )


def _task(
    metadata: Mapping[str, Any],
    settings: Settings,
    heads: tuple[Head, ...],
    samples: Samples,
    num_train: int,
) -> TaskSpec:
    """The task of samples in double precision; its averages are of the training set."""
    kind = nbody_files.sources(metadata)
    scalar = "charge" if kind == "charges" else "mass"
    num_edges = int(samples.n_edge[:num_train].sum())
    nodes = int(samples.n_node[:num_train].sum())
    receivers, senders = _global_edges(samples, num_edges)
    positions = samples.nodes.positions
    distances = np.linalg.norm(positions[receivers] - positions[senders], axis=-1)
    extent = np.percentile(distances, RADIAL_PERCENTILE) if num_edges else 1.0
    return TaskSpec(
        name=f"{metadata['settings']['system']}, frame {settings.start_frame} -> "
        f"{settings.target_frame}",
        heads=heads,
        scalars=(scalar,),
        vectors=tuple(VectorInput(name) for name in CUES[settings.cues]),
        edge_features=(f"{scalar}_product",),
        length_unit=metadata["units"]["positions"],
        connectivity=settings.connectivity,
        num_neighbors=settings.num_neighbors,
        # Bodies without any neighbour, or all at one place, are divided by no zero.
        radial_extent=float(np.float32(extent)) or 1.0,
        average_neighbors=num_edges / nodes or 1.0,
    )


def _root_mean_square(values: np.ndarray) -> float:
    """Of all components; 1 if they are 0."""
    return float(np.float32(np.sqrt(np.mean(np.square(values))))) or 1.0


def _global_edges(samples: Samples, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Receivers and senders of the first `count` edges as rows of all nodes."""
    offsets = np.repeat(np.cumsum(samples.n_node) - samples.n_node, samples.n_edge)
    offsets = offsets[:count]
    assert samples.senders is not None and samples.receivers is not None
    return samples.receivers[:count] + offsets, samples.senders[:count] + offsets
