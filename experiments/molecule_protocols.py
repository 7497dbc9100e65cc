"""Training protocols by model on molecules.

Each protocol names its source and who chose it, as in `protocols`. A model without one
trains under `DEFAULT`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments import protocols


@dataclasses.dataclass(frozen=True)
class MoleculeProtocol(protocols.Protocol):
    """Settings of a training on molecules, those of the graphs among them.

    Attributes:
      connectivity, cutoff, node_features, bond_features, offsets: of
        `data.qm9.Settings`. 'mean' offsets are those of papers that standardise every
        target by mean and mean absolute deviation.
    """

    batch_size: int = 96
    connectivity: str = "complete"
    cutoff: float | None = None
    node_features: str = "species"
    bond_features: bool = False
    offsets: str = "species"


_OURS = "the graphs of the paper with other settings of the training"
_COSINE: Mapping[str, Any] = {"schedule": "cosine", "warmup_epochs": 5}
_EGNN = MoleculeProtocol(
    f"{protocols.EGNN_PAPER}, appendix C.3",
    protocols.PAPER,
    schedule="cosine",
    eval_every=1,
    node_features="egnn",
    offsets="mean",
    fields={"hidden_size": 128, "num_layers": 7, "attention": True},
)
DEFAULT = MoleculeProtocol("the same settings for every model", eval_every=1, **_COSINE)

PROTOCOLS: Mapping[str, Mapping[str, MoleculeProtocol]] = {
    "egnn": {"paper": _EGNN},
    "segnn": {
        "paper": MoleculeProtocol(
            protocols.SEGNN_SOURCE,
            protocols.PAPER,
            batch_size=128,
            schedule="steps",
            weight_decay=1e-8,
            eval_every=1,
            connectivity="radius",
            cutoff=2.0,
            offsets="mean",
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
    # The authors lower the rate on plateaus of the validation loss; here a cosine does.
    "torchmd_et": {
        "default": MoleculeProtocol(
            f"Thoelke, De Fabritiis 2022, arXiv 2202.02541; {_OURS}",
            batch_size=128,
            learning_rate=4e-4,
            schedule="cosine",
            warmup_epochs=12,  # 10,000 steps of 860 per epoch
            eval_every=1,
            connectivity="radius",
            cutoff=5.0,
            fields={
                "num_layers": 8,
                "num_heads": 8,
                "head_size": 32,
                "num_basis": 64,
                "vector_cutoff": False,  # the form of 2022
            },
        )
    },
    "equiformer": {
        "default": MoleculeProtocol(
            f"Liao, Smidt 2023, arXiv 2206.11990; {_OURS}",
            epochs=300,
            batch_size=64,
            optimizer="adamw",
            weight_decay=5e-3,
            eval_every=1,
            connectivity="radius",
            cutoff=5.0,
            fields={
                "hidden_irreps": "128x0e+64x1e+32x2e",
                "num_layers": 6,
                "feature_size": 512,
                "num_basis": 128,
                "radial_sizes": (64, 64),
                "attention_dropout": 0.2,
            },
            **_COSINE,
        )
    },
    "nequip": {
        "default": MoleculeProtocol(
            f"Batzner et al. 2022, arXiv 2101.03164; {_OURS}",
            eval_every=1,
            connectivity="radius",
            cutoff=5.0,
            fields={"hidden_size": 64, "lmax": 2},
            **_COSINE,
        )
    },
    "schnet": {
        "default": MoleculeProtocol(
            f"Schuett et al. 2017, arXiv 1706.08566; {_OURS}",
            batch_size=32,
            eval_every=1,
            **_COSINE,
        )
    },
    "nmp": {
        "default": MoleculeProtocol(
            f"Gilmer et al. 2017, arXiv 1704.01212; {_OURS}",
            batch_size=20,
            eval_every=1,
            bond_features=True,
            offsets="mean",
            **_COSINE,
        )
    },
    "cormorant": {
        "default": MoleculeProtocol(
            f"Anderson et al. 2019, arXiv 1906.04015; {_OURS}",
            epochs=256,
            batch_size=25,
            eval_every=1,
            node_features="egnn",
            offsets="mean",
            **_COSINE,
        )
    },
    "lieconv": {
        "default": MoleculeProtocol(
            f"Finzi et al. 2020, arXiv 2002.12880; {_OURS}",
            epochs=500,
            batch_size=75,
            learning_rate=3e-3,
            eval_every=1,
            connectivity="radius",
            cutoff=6.2,  # where the radius stays that the authors' layers learn
            node_features="egnn",
            offsets="mean",
            fields={"hidden_size": 1536, "pooling": "mean"},
            **_COSINE,
        )
    },
    **{
        name: {
            "default": MoleculeProtocol(
                "bonds as edges",
                learning_rate=1e-3,
                clip_norm=1.0,
                eval_every=1,
                connectivity="bonds",
                bond_features=True,
                fields={"bond_tokens": True},
                **_COSINE,
            )
        }
        for name in ("demetar", "demetar_free")
    },
}

# Where a paper has another rate for a target.
RATES: Mapping[str, Mapping[str, float]] = {
    "egnn": dict.fromkeys(("gap", "homo", "lumo"), 1e-3),
}


def find(model: str, name: str, target: str) -> MoleculeProtocol:
    """The protocol of that name for a model and a target of QM9.

    Raises:
      UserError: the model has none of that name.
    """
    known = PROTOCOLS.get(model, {"default": DEFAULT})
    protocol = protocols.named(known, model, name)
    rate = RATES.get(model, {}).get(target, protocol.learning_rate)
    return dataclasses.replace(protocol, learning_rate=rate)
