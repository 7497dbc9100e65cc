"""Training protocols by model on N-body systems, and the tasks of the data sets.

Each protocol names its source. A model without one trains under `DEFAULT`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from demetar import models
from demetar.errors import UserError


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings of a training. The names are those of the flags.

    Attributes:
      phase: how the run begins, one text per phase: 'EPOCHS:field=value,...' has other
        fields of the model, or another loss_floor, for so many epochs. After the last
        comes the run as the other settings say.
    """

    source: str
    epochs: int = 1_000
    batch_size: int = 100
    learning_rate: float = 5e-4
    schedule: str = "constant"
    optimizer: str = "adam"
    weight_decay: float = 0.0
    warmup_epochs: int = 0
    clip_norm: float = 0.0
    average_decay: float = 0.0
    loss: str = "squared"
    loss_floor: float = 1e-3
    clip_each: float = 0.0
    phase: tuple[str, ...] = ()
    eval_every: int = 5
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class DataProtocol:
    """The task of a data set. The names are those of the flags.

    Attributes:
      start_frame, target_frame: frames of input and target.
      num_train: samples that train; None for all.
      num_bodies: bodies per system; None where the data say.
      connectivity, num_neighbors: of the graphs.
    """

    start_frame: int
    target_frame: int
    num_train: int | None
    num_bodies: int | None = 5
    connectivity: str = "complete"
    num_neighbors: int | None = None


AnyProtocol = TypeVar("AnyProtocol", bound=Protocol)

DATASETS: Mapping[str, DataProtocol] = {
    "nbody_small": DataProtocol(30, 40, 3_000),
    "nbody": DataProtocol(6, 8, 50_000),
    "gravity": DataProtocol(30, 40, 10_000, 100, "knn", 6),
}

# Simulations that are generated of a large data set where not all are asked for.
QUICK: Mapping[str, Mapping[str, int]] = {
    "gravity": {"num_train": 400, "num_valid": 50, "num_test": 50},
}
NUM_NEIGHBORS = 6  # where a data set is not connected so by its own protocol

DEFAULT = Protocol("the settings of this project; no paper's")

EGNN_SOURCE = "Satorras, Hoogeboom, Welling 2021, arXiv 2102.09844"
_EGNN_SETTINGS: Mapping[str, Any] = {"epochs": 10_000, "weight_decay": 1e-12}

# The report of 2023 trains on other data. Longer runs overfit, whatever the rate.
_DEMETAR = Protocol(
    "chosen on the validation set of nbody_small; no paper's",
    epochs=150,
    learning_rate=1e-3,
    schedule="cosine",
    optimizer="adamw",
    weight_decay=0.1,
    warmup_epochs=2,
    clip_norm=1.0,
    average_decay=0.999,
    loss="log",
    loss_floor=3e-2,
)

# The rows of EGNN's table: the nodes know the charges, the edges only distances. The
# code divides 32 and 64 features by the number of degrees. Without these fields both
# models read what the others read, and have about their size.
_TFN_FIELDS: Mapping[str, Any] = {
    "hidden_size": 16,
    "lmax": 1,
    "radial_size": 32,
    "num_basis": 0,
    "read_edges": False,
    "shared_radial": False,
}
_SE3_FIELDS: Mapping[str, Any] = {
    **_TFN_FIELDS,
    "hidden_size": 21,
    "lmax": 2,
    "num_heads": 1,
    "head_size": 21,
    "self_interaction": "none",
}

# Few and long steps first: they cannot follow close encounters, whose gradients would
# drown the rest, and are soon made. Evaluation can afford more and shorter ones.
_NEWTON = Protocol(
    "chosen on the validation set of nbody_small; no paper's",
    epochs=35,
    batch_size=50,
    learning_rate=5e-3,
    schedule="cosine",
    average_decay=0.99,
    loss="log",
    loss_floor=1e-6,
    clip_each=1.0,
    phase=(
        "4:num_substeps=20,eta=0.2,loss_floor=1e-3",
        "6:num_substeps=40,eta=0.15,loss_floor=1e-4",
        "15:num_substeps=80,loss_floor=1e-5",
    ),
    fields={
        "num_substeps": 160,
        "eta": 0.1,
        "eval_substeps": 1_000,
        "eval_eta": 0.05,
    },
)

PROTOCOLS: Mapping[str, Mapping[str, Protocol]] = {
    "linear": {"paper": Protocol(EGNN_SOURCE, epochs=100, learning_rate=1e-2)},
    "linear_map": {"paper": Protocol(EGNN_SOURCE, epochs=100, learning_rate=1e-2)},
    "gnn": {"paper": Protocol(EGNN_SOURCE, learning_rate=1e-3, **_EGNN_SETTINGS)},
    "egnn": {"paper": Protocol(EGNN_SOURCE, **_EGNN_SETTINGS)},
    "segnn": {
        "paper": Protocol("Brandstetter et al. 2022, arXiv 2110.02905"),
        # Chosen on the validation set: the paper's setting overfits after some 100
        # epochs. A high constant rate, a tight bound on the gradient (few samples with
        # close encounters dominate it) and the average of the weights do not.
        "tuned": Protocol(
            "chosen on the validation set of nbody_small",
            epochs=110,
            learning_rate=8e-3,
            optimizer="adamw",
            weight_decay=1e-2,
            warmup_epochs=2,
            clip_norm=0.05,
            average_decay=0.9995,
        ),
    },
    "radial_field": {
        "paper": Protocol(EGNN_SOURCE, learning_rate=2e-4, **_EGNN_SETTINGS),
    },
    "tfn": {
        "paper": Protocol(
            EGNN_SOURCE, learning_rate=1e-3, fields=_TFN_FIELDS, **_EGNN_SETTINGS
        ),
        "preset": DEFAULT,
    },
    "se3_transformer": {
        "paper": Protocol(
            EGNN_SOURCE, learning_rate=5e-3, fields=_SE3_FIELDS, **_EGNN_SETTINGS
        ),
        "preset": DEFAULT,
    },
    # The table of this paper is on other data: the settings are those of this project.
    "deep_set": {"paper": Protocol("Fuchs et al. 2020, arXiv 2006.10503")},
    "set_transformer": {"paper": Protocol("Fuchs et al. 2020, arXiv 2006.10503")},
    "newton": {"paper": _NEWTON},
    "newton_octahedral": {"paper": _NEWTON},
    "demetar": {"paper": _DEMETAR},
    "demetar_free": {"paper": _DEMETAR},
    # These papers have no N-body protocol: the settings are those of this project.
    # Its gates are not bounded: the gradients of fast particles would drown the others.
    "nequip": {
        "paper": Protocol(
            "Batzner et al. 2022, arXiv 2101.03164",
            learning_rate=2e-3,
            clip_norm=0.1,
        )
    },
    "simple_network": {"paper": Protocol("Geiger, Smidt 2022, arXiv 2207.09453")},
    "torchmd_et": {"paper": Protocol("Thoelke, De Fabritiis 2022, arXiv 2202.02541")},
    "equiformer": {"paper": Protocol("Liao, Smidt 2023, arXiv 2206.11990")},
}


_GRAVITY = "Brandstetter et al. 2022, arXiv 2110.02905, gravity"
# Of all models on gravity, but for those that are named.
GRAVITY = Protocol(_GRAVITY)
GRAVITY_PROTOCOLS: Mapping[str, Protocol] = {
    # Forces are some 30 times larger than velocities: a constant rate would not settle.
    name: Protocol(
        f"{_GRAVITY}; the settings of this project",
        epochs=100,
        learning_rate=1e-2,
        schedule="cosine",
    )
    for name in ("linear", "linear_map")
}

# Models that move along the velocities, and so cannot do without.
NEED_VELOCITY = ("linear", "egnn", "radial_field", "newton", "newton_octahedral")
# Directions alone: forces have heavy tails, and as features they would drown the rest.
_MORE_CUES: Mapping[str, Any] = {
    "node_vectors": ("velocity",),
    "edge_vectors": ("velocity",),
}


def find(model: str, name: str, dataset: str = "nbody_small") -> Protocol:
    """The protocol of that name for a model on a data set.

    Raises:
      UserError: the model has none of that name.
    """
    if dataset == "gravity":
        known = {"paper": GRAVITY_PROTOCOLS.get(model, GRAVITY)}
        return named(known, f"{model} on gravity", name)
    return named(PROTOCOLS.get(model, {"paper": DEFAULT}), model, name)


def named(known: Mapping[str, AnyProtocol], model: str, name: str) -> AnyProtocol:
    """The one of that name among the known protocols of a model.

    Raises:
      UserError: there is none.
    """
    if name not in known:
        raise UserError(
            f"{model} has no protocol {name!r}; expected one of {', '.join(known)}"
        )
    return known[name]


def input_fields(model: str, dataset: str, cues: str) -> dict[str, Any]:
    """Fields by which a model reads its inputs, where the defaults do not fit.

    Its scalar inputs are named after the data set's, and invariants of vectors that the
    cues leave out are left out. SEGNN reads all cues: harmonics of relative velocities
    steer its messages, those of the forces its updates (arXiv 2110.02905, section 3.1).

    Raises:
      UserError: the model cannot do without the velocities that the cues leave out.
    """
    if cues == "positions" and model in NEED_VELOCITY:
        raise UserError(
            f"{model} moves along the velocities, which --cues=positions leaves out; "
            "give --cues=velocity, or another model such as segnn"
        )
    if cues == "force" and model == "segnn":
        return dict(_MORE_CUES)
    renamed = {"charge": "mass"} if dataset == "gravity" else {}
    absent = {"|velocity|"} if cues == "positions" else set()
    changed = {}
    for field in {"node_inputs", "species_inputs"} & models.fields(model).keys():
        default: Any = models.fields(model)[field].default
        names = tuple(renamed.get(name, name) for name in default if name not in absent)
        if names != default:
            changed[field] = names
    return changed


@dataclasses.dataclass(frozen=True)
class Phase:
    """A parsed phase: the fields that it changes, and the floor of the loss."""

    epochs: int
    fields: Mapping[str, Any]
    loss_floor: float | None


def parse_phase(model: str, text: str) -> Phase:
    """A phase 'EPOCHS:field=value,...' of a model.

    Raises:
      UserError: it is malformed, or the model has no such field.
    """
    epochs, colon, assignments = text.partition(":")
    if not (colon and epochs.isdecimal() and int(epochs)):
        raise UserError(
            f"expected --phase=EPOCHS:field=value,... with at least 1 epoch, "
            f"found {text!r}"
        )
    given = [item for item in assignments.split(",") if item]
    floors = [item for item in given if item.startswith("loss_floor=")]
    try:
        values = [float(item.partition("=")[2]) for item in floors]
    except ValueError:
        raise UserError(f"expected a number, found {floors[0]!r} in --phase") from None
    if any(not 0 < value < math.inf for value in values):
        raise UserError(
            f"expected a loss_floor above 0, found {floors[0]!r} in --phase"
        )
    fields = models.parse_fields(model, [item for item in given if item not in floors])
    return Phase(int(epochs), fields, values[-1] if values else None)


def describe(name: str, protocol: Protocol, changed: Mapping[str, Any]) -> str:
    """The protocol of that name and what departs from it, in one line."""
    text = f"{name}: {protocol.source}"
    if not changed:
        return text
    changes = ", ".join(f"{key}={value}" for key, value in sorted(changed.items()))
    return f"{text}; changed: {changes}"


def folder_protocol(frames: Sequence[int]) -> DataProtocol:
    """30 -> 40 where a folder has these frames, else its first and its last."""
    ends = (30, 40) if {30, 40} <= set(frames) else (frames[0], frames[-1])
    return DataProtocol(*ends, num_train=None, num_bodies=None)
