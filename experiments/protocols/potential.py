"""Training protocols by model on energies and forces.

All train on 950 frames in batches of 5, as Batzner et al. 2022 (arXiv 2101.03164) do,
with this project's settings of the optimiser; a model without one of its own trains
under `DEFAULT`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from demetar.data.potential_heads import Settings as Data
from demetar.train import loop, optim
from experiments.protocols.settings import Protocol, named

_ADAM = optim.Settings(learning_rate=2e-3, schedule="cosine", warmup_epochs=1)
_protocol = functools.partial(
    Protocol,
    data=Data(),
    training=loop.Settings(epochs=300, eval_every=5, average_decay=0.999),
    optimizer=_ADAM,
    batch_size=5,
)
DEFAULT = _protocol("the same settings for every model")

PROTOCOLS: Mapping[str, Mapping[str, Protocol]] = {
    # Under the others' settings it ends with forces of zero.
    "egnn": {
        "default": _protocol(
            "settings under which EGNN learns and does not diverge",
            optimizer=optim.Settings(
                optimizer="muon",
                learning_rate=5e-3,
                schedule="cosine",
                adaptive_clip=True,
            ),
        )
    },
    # Under the others' settings, and with more weight on the energies, all hidden units
    # of its readout fall silent: its forces become zero and stay so.
    "nmp": {
        "default": _protocol(
            "settings under which NMP learns; the rate is its authors'",
            data=Data(energy_weight=1e-3, training_error="absolute"),
            optimizer=optim.Settings(
                learning_rate=5e-4,
                schedule="cosine",
                warmup_epochs=2,
                adaptive_clip=True,
            ),
        )
    },
    "nequip": {
        "default": _protocol(
            "Batzner et al. 2022, arXiv 2101.03164; its frames and batches with other "
            "sizes, weights and another optimiser",
            optimizer=optim.Settings(
                optimizer="muon", learning_rate=1e-2, schedule="cosine"
            ),
            fields={"hidden_size": 16, "lmax": 2, "num_layers": 4},
        )
    },
}


def find(model: str, name: str) -> Protocol:
    """The protocol of that name for a model.

    Raises:
      UserError: the model has none of that name.
    """
    return named(PROTOCOLS.get(model, {"default": DEFAULT}), model, name)
