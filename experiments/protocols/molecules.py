"""Training protocols by model on molecules.

Each protocol names its source and who chose it, as in `protocols.nbody`. A model
without one trains under `DEFAULT`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from demetar.data import qm9
from demetar.train import loop, optim
from experiments.protocols.nbody import EGNN_PAPER, SEGNN_SOURCE
from experiments.protocols.settings import PAPER, Protocol, named

_OURS = "the graphs of the paper with other settings of the training"
_COSINE = optim.Settings(schedule="cosine", warmup_epochs=5)
_GRAPHORMER = optim.Settings(
    schedule="cosine",
    optimizer="adamw",
    weight_decay=1e-2,
    warmup_epochs=38,
    clip_norm=5.0,
)
# 'mean' offsets are those of papers that standardise every target by mean and mean
# absolute deviation.
_BONDS = qm9.Settings(connectivity="bonds", bond_features=True)


def _radius(cutoff: float, **changed: str) -> qm9.Settings:
    return qm9.Settings(connectivity="radius", cutoff=cutoff, **changed)  # type: ignore[arg-type]


def _epochs(count: int) -> loop.Settings:
    return loop.Settings(count, eval_every=1)


_protocol = functools.partial(
    Protocol,
    data=qm9.Settings(),
    training=_epochs(1_000),
    optimizer=_COSINE,
    batch_size=96,
)
DEFAULT = _protocol("the same settings for every model")

PROTOCOLS: Mapping[str, Mapping[str, Protocol]] = {
    "egnn": {
        "paper": _protocol(
            f"{EGNN_PAPER}, appendix C.3",
            PAPER,
            data=qm9.Settings(node_features="egnn", offsets="mean"),
            optimizer=optim.Settings(schedule="cosine"),
            fields={"hidden_size": 128, "num_layers": 7, "attention": True},
        )
    },
    "segnn": {
        "paper": _protocol(
            SEGNN_SOURCE,
            PAPER,
            data=_radius(2.0, offsets="mean"),
            optimizer=optim.Settings(schedule="steps", weight_decay=1e-8),
            batch_size=128,
            fields={
                "hidden_units": 128,
                "num_layers": 7,
                "lmax_hidden": 2,
                "lmax_attributes": 3,
                "read_positions": False,
                "instance_norm": True,
                "component_harmonics": True,
                "squared_lengths": True,
                "pooling": "mean",
            },
        )
    },
    "torchmd_et": {
        # The authors lower the rate on plateaus of the validation loss; here a cosine
        # does.
        "default": _protocol(
            f"Thoelke, De Fabritiis 2022, arXiv 2202.02541; {_OURS}",
            data=_radius(5.0),
            optimizer=optim.Settings(
                learning_rate=4e-4,
                schedule="cosine",
                warmup_epochs=12,  # 10,000 steps of 860 per epoch
            ),
            batch_size=128,
            fields={
                "num_layers": 8,
                "num_heads": 8,
                "head_size": 32,
                "num_basis": 64,
                "vector_cutoff": False,  # the form of 2022
            },
        ),
        # The best that an evening on two cores gives.
        "fast": _protocol(
            "chosen on the validation set of QM9",
            data=_radius(5.0),
            training=loop.Settings(12, eval_every=1, average_decay=0.999),
            optimizer=optim.Settings(
                learning_rate=1e-3, schedule="cosine", warmup_epochs=1
            ),
            fields={
                "num_layers": 6,
                "num_heads": 8,
                "head_size": 16,
                "num_basis": 64,
                "vector_cutoff": False,
            },
        ),
    },
    "equiformer": {
        "default": _protocol(
            f"Liao, Smidt 2023, arXiv 2206.11990; {_OURS}",
            data=_radius(5.0),
            training=_epochs(300),
            optimizer=dataclasses.replace(
                _COSINE, optimizer="adamw", weight_decay=5e-3
            ),
            batch_size=64,
            fields={
                "hidden_irreps": "128x0e+64x1e+32x2e",
                "num_layers": 6,
                "feature_size": 512,
                "num_basis": 128,
                "radial_sizes": (64, 64),
                "attention_dropout": 0.2,
            },
        )
    },
    "nequip": {
        "default": _protocol(
            f"Batzner et al. 2022, arXiv 2101.03164; {_OURS}",
            data=_radius(5.0),
            fields={"hidden_size": 64, "lmax": 2},
        )
    },
    # As many updates as the authors make on ZINC, and as long a warm-up; a cosine
    # follows it, not a line.
    "graphormer": {
        "default": _protocol(
            f"Ying et al. 2021, arXiv 2106.05234; {_OURS}",
            data=_BONDS,
            training=_epochs(256),
            optimizer=dataclasses.replace(_GRAPHORMER, learning_rate=2e-4),
            batch_size=64,
        )
    },
    "graphormer_3d": {
        "default": _protocol(
            f"Shi et al. 2022, arXiv 2203.04810; {_OURS}",
            training=_epochs(256),
            optimizer=dataclasses.replace(_GRAPHORMER, learning_rate=3e-4),
            batch_size=64,
        )
    },
    "schnet": {
        "default": _protocol(
            f"Schuett et al. 2017, arXiv 1706.08566; {_OURS}", batch_size=32
        )
    },
    "nmp": {
        "default": _protocol(
            f"Gilmer et al. 2017, arXiv 1704.01212; {_OURS}",
            data=qm9.Settings(bond_features=True, offsets="mean"),
            batch_size=20,
        )
    },
    "cormorant": {
        "default": _protocol(
            f"Anderson et al. 2019, arXiv 1906.04015; {_OURS}",
            data=qm9.Settings(node_features="egnn", offsets="mean"),
            training=_epochs(256),
            batch_size=25,
        )
    },
    "lieconv": {
        "default": _protocol(
            f"Finzi et al. 2020, arXiv 2002.12880; {_OURS}",
            # The radius stays at which the authors' layers learn.
            data=_radius(6.2, node_features="egnn", offsets="mean"),
            training=_epochs(500),
            optimizer=dataclasses.replace(_COSINE, learning_rate=3e-3),
            batch_size=75,
            fields={"hidden_size": 1536, "pooling": "mean"},
        )
    },
    **{
        name: {
            "default": _protocol(
                "bonds as edges",
                data=_BONDS,
                optimizer=dataclasses.replace(
                    _COSINE, learning_rate=1e-3, clip_norm=1.0
                ),
                fields={"bond_tokens": True},
            )
        }
        for name in ("demetar", "demetar_free")
    },
}

# Where a paper has another rate for a target.
RATES: Mapping[str, Mapping[str, float]] = {
    "egnn": dict.fromkeys(("gap", "homo", "lumo"), 1e-3),
}


def find(model: str, name: str, target: str) -> Protocol:
    """The protocol of that name for a model and a target of QM9.

    Raises:
      UserError: the model has none of that name.
    """
    known = PROTOCOLS.get(model, {"default": DEFAULT})
    protocol = named(known, model, name)
    optimizer = protocol.optimizer
    rate = RATES.get(model, {}).get(target, optimizer.learning_rate)
    return dataclasses.replace(
        protocol, optimizer=dataclasses.replace(optimizer, learning_rate=rate)
    )
