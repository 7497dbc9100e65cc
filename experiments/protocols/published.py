"""Test errors that were published, to stand beside ours.

`find` gives the value of the same task alone: the same data, frames, split and number
of training samples, in the unit of the table. `elsewhere` tells in words what was
published of other data or settings, which is nothing to be reached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.protocols import nbody as protocols


@dataclasses.dataclass(frozen=True)
class Published:
    """A test loss that was published, in the unit of the data set.

    Attributes:
      loss: of the same kind as that of a record.
      source: where it stands.
      by_head: of heads that are not averaged: the mean absolute error of each, in its
        own unit.
    """

    loss: float
    source: str
    by_head: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class OfData:
    """What was published of a data set, whatever the model.

    Attributes:
      name: of the model.
      source: where it stands.
      num_train: training samples.
      by_head: the mean absolute error of each head, in its own unit.
    """

    name: str
    source: str
    num_train: int
    by_head: Mapping[str, float]


_EGNN_PAPER = "Satorras, Hoogeboom, Welling 2021, arXiv 2102.09844"
_SEGNN_PAPER = "Brandstetter et al. 2022, arXiv 2110.02905"
_SEGNN_CODE = f"{_SEGNN_PAPER}; its code"
_SE3_PAPER = "Fuchs et al. 2020, arXiv 2006.10503, table 3"
_TORCHMD_PAPER = "Thölke, De Fabritiis 2022, arXiv 2202.02541"
_EQUIFORMER_PAPER = "Liao, Smidt 2023, arXiv 2206.11990"

# By data set, target and model.
NBODY: Mapping[tuple[str, str, str], Published] = {
    ("nbody_small", "position", "linear"): Published(0.0819, _EGNN_PAPER),
    ("nbody_small", "position", "linear_map"): Published(0.0683, _EGNN_PAPER),
    ("nbody_small", "position", "se3_transformer"): Published(0.0244, _EGNN_PAPER),
    ("nbody_small", "position", "tfn"): Published(0.0155, _EGNN_PAPER),
    ("nbody_small", "position", "gnn"): Published(0.0107, _EGNN_PAPER),
    ("nbody_small", "position", "radial_field"): Published(0.0104, _EGNN_PAPER),
    ("nbody_small", "position", "egnn"): Published(0.0071, _EGNN_PAPER),
    ("nbody_small", "position", "segnn"): Published(
        0.0043,
        f"{_SEGNN_CODE} centres positions over x, y, z instead of the particles and "
        "so is not equivariant",
    ),
    ("nbody_blog", "position", "egnn"): Published(
        0.0025, "the JAX EGNN blog post, 200 steps ahead and not 1,000"
    ),
    ("gravity", "position", "segnn"): Published(
        0.265, f"{_SEGNN_CODE} predicts absolute positions"
    ),
}

# Mean absolute errors of QM9 in the order of the papers' tables, in the units of
# `demetar.data.targets`: model -> split, training molecules, source, values.
_TARGETS = (
    *("alpha", "gap", "homo", "lumo", "mu", "Cv"),
    *("G", "H", "r2", "U", "U0", "zpve"),
)
_QM9: Mapping[str, tuple[str, int, str, tuple[float, ...]]] = {
    "nmp": (
        *("egnn", 100_000, f"Gilmer et al. 2017 in the table of {_EGNN_PAPER}"),
        (0.092, 69, 43, 38, 0.030, 0.040, 19, 17, 0.180, 20, 20, 1.50),
    ),
    "schnet": (
        *("egnn", 100_000, f"Schütt et al. 2017 in the table of {_EGNN_PAPER}"),
        (0.235, 63, 41, 34, 0.033, 0.033, 14, 14, 0.073, 19, 14, 1.70),
    ),
    "cormorant": (
        *("egnn", 100_000, f"Anderson et al. 2019 in the table of {_EGNN_PAPER}"),
        (0.085, 61, 34, 38, 0.038, 0.026, 20, 21, 0.961, 21, 22, 2.03),
    ),
    "lieconv": (
        *("egnn", 100_000, f"Finzi et al. 2020 in the table of {_EGNN_PAPER}"),
        (0.084, 49, 30, 25, 0.032, 0.038, 22, 24, 0.800, 19, 19, 2.28),
    ),
    "tfn": (
        *("egnn", 100_000, f"the table of {_EGNN_PAPER}"),
        (0.223, 58, 40, 38, 0.064, 0.101),
    ),
    "se3_transformer": (
        *("egnn", 100_000, f"the table of {_EGNN_PAPER}"),
        (0.142, 53, 35, 33, 0.051, 0.054),
    ),
    "egnn": (
        *("egnn", 100_000, _EGNN_PAPER),
        (0.071, 48, 29, 25, 0.029, 0.031, 12, 12, 0.106, 12, 11, 1.55),
    ),
    "segnn": (
        *("egnn", 100_000, _SEGNN_PAPER),
        (0.060, 42, 24, 21, 0.023, 0.031, 15, 16, 0.660, 13, 15, 1.62),
    ),
    "torchmd_et": (
        *("torchmd", 110_000, _TORCHMD_PAPER),
        (0.059, 36.1, 20.3, 17.5, 0.011, 0.026, 7.62, 6.16, 0.033, 6.38, 6.15, 1.84),
    ),
    "equiformer": (
        *("torchmd", 110_000, _EQUIFORMER_PAPER),
        (0.046, 30, 15.4, 14.7, 0.012, 0.023, 7.63, 6.63, 0.251, 6.74, 6.59, 1.26),
    ),
}

# Mean absolute errors of energies in meV and of force components in meV/Å, of rMD17.
_RMD17_FRAMES = 950  # for training, of 1,000 with those for validation
_RMD17: Mapping[str, tuple[str, Mapping[str, tuple[float, float]]]] = {
    "NequIP, l = 3": (
        "Batzner et al. 2022, arXiv 2101.03164",
        {"rmd17_ethanol": (0.4, 2.8), "rmd17_aspirin": (2.3, 8.2)},
    ),
    "MACE": (
        "Batatia et al. 2022, arXiv 2206.07697",
        {"rmd17_ethanol": (0.4, 2.1), "rmd17_aspirin": (2.2, 6.6)},
    ),
    "PONITA": (
        "Bekkers et al. 2024, arXiv 2310.02970",
        {"rmd17_ethanol": (0.4, 2.5), "rmd17_aspirin": (1.7, 5.8)},
    ),
}
_RMD17_MODELS = {"nequip": "NequIP, l = 3"}

# Mean squared errors of position and velocity, of other data: a reflecting box, a start
# frame drawn at random, no validation set.
_BOTH: Mapping[str, tuple[float, float]] = {
    "linear": (0.0691, 0.261),
    "deep_set": (0.0639, 0.246),
    "set_transformer": (0.0139, 0.101),
    "tfn": (0.0151, 0.125),
    "se3_transformer": (0.0076, 0.075),
}


def find(record: Mapping[str, Any]) -> Published | None:
    """The value of the same task; none for other frames or another training set."""
    if record["dataset"] == "qm9":
        return _of_qm9(record)
    if "labels" in record["settings"]:
        return _of_forces(record)
    named = protocols.DATASETS.get(record["dataset"])
    if named is None or record["settings"].get("data_seed") is not None:
        return None
    task = {name: getattr(named, name) for name in (*protocols.SETTLED, "cues")}
    # Records of the time before these could be chosen have the data set's own.
    chosen = ("num_bodies", "connectivity", "num_neighbors", "cues")
    settings = {name: task[name] for name in chosen} | record["settings"]
    if any(settings.get(name) != value for name, value in task.items()):
        return None
    return NBODY.get((record["dataset"], record["target"], record["model"]))


def of_data(record: Mapping[str, Any]) -> list[OfData]:
    """What was published of the energies and forces of a record's data set."""
    if record["settings"].get("labels") != "rmd17":
        return []
    return [
        OfData(
            name,
            source,
            _RMD17_FRAMES,
            dict(zip(("energy", "forces"), values[record["dataset"]], strict=True)),
        )
        for name, (source, values) in _RMD17.items()
        if record["dataset"] in values
    ]


def _of_forces(record: Mapping[str, Any]) -> Published | None:
    """The value of the model of this name; none for another number of frames."""
    name = _RMD17_MODELS.get(record["model"])
    for own in of_data(record):
        if own.name == name and own.num_train == record["settings"].get("num_train"):
            loss = own.by_head["forces" if "/Å" in record["unit"] else "energy"]
            return Published(loss, f"{own.source}, as {own.name}", own.by_head)
    return None


def _of_qm9(record: Mapping[str, Any]) -> Published | None:
    """The value of the same split and number of training molecules."""
    settings = record["settings"]
    trained = (settings.get("split"), settings.get("num_train"))
    *expected, _, _ = _QM9.get(record["model"], (None, None, "", ()))
    return _qm9(record) if trained == tuple(expected) else None


def _qm9(record: Mapping[str, Any]) -> Published | None:
    """What a model's row has of a target of QM9."""
    _, _, source, values = _QM9.get(record["model"], ("", 0, "", ()))
    row = dict(zip(_TARGETS, values, strict=False))  # some rows are short
    loss = row.get(record["target"])
    return None if loss is None else Published(loss, source)


def elsewhere(record: Mapping[str, Any]) -> str:
    """What was published of another task that is near, in words; '' if nothing."""
    if find(record):
        return ""
    if record["dataset"] == "qm9":
        found = _qm9(record)
        if not found:
            return ""
        split, count, _, _ = _QM9[record["model"]]
        return (
            f"{found.loss:g} {record['unit']} with {count:,} training molecules of "
            f"split {split} ({found.source})"
        )
    both = _BOTH.get(record["model"])
    if both and record["target"] == "both" and record["dataset"] == "nbody_small":
        position, velocity = both
        return (
            f"position {position:g}, velocity {velocity:g} on other data: a reflecting "
            f"box and a start frame drawn at random ({_SE3_PAPER})"
        )
    return ""
