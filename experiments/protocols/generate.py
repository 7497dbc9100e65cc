"""Training protocols by model on drawing molecules.

'paper' is that of the one model that its authors trained so; a model without it trains
likewise in its own size. 'fast' is what an evening on two cores can do: small models
of about one size under one schedule, so that they can be compared. 'tuned' is what the
small model that was searched for does best.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from demetar.generation.dataset import Settings as Data
from demetar.train import loop, optim
from experiments.protocols.settings import PAPER, Protocol, named

_EDM = "Hoogeboom, Satorras, Vignac, Welling 2022, arXiv 2203.17003, appendix E"
_protocol = functools.partial(
    Protocol,
    data=Data(),
    training=loop.Settings(3_000, eval_every=20, average_decay=0.9999),
    optimizer=optim.Settings(
        optimizer="amsgrad", learning_rate=1e-4, adaptive_clip=True
    ),
    batch_size=64,
)
DEFAULT = _protocol(f"as {_EDM}, trains another model")

_EGNN: Mapping[str, Any] = {
    "attention": True,
    "move_range": 15.0,
    "node_inputs": ("all",),
}
# 4 layers of about 64 channels.
_SMALL: Mapping[str, Mapping[str, Any]] = {
    "egnn": {**_EGNN, "hidden_size": 64, "num_layers": 4},
    "segnn": {"hidden_units": 64, "num_layers": 4},
    "torchmd_et": {"num_heads": 4, "head_size": 16, "num_layers": 4},
    "equiformer": {"hidden_irreps": "32x0e+16x1o", "num_layers": 4},
    # Complete graphs of QM9's largest molecules, of 29 atoms.
    "demetar": {"hidden_size": 64, "max_edge_tokens": 29 * 28},
}
_FAST = _protocol(
    "small models under one schedule",
    training=loop.Settings(40, eval_every=2, average_decay=0.999),
    optimizer=optim.Settings(
        optimizer="amsgrad", learning_rate=1e-3, schedule="cosine", adaptive_clip=True
    ),
)
# After one epoch of EGNN its validation error of the noise is 0.151, that of AMSGrad
# at 1e-3 0.204.
MUON = optim.Settings(
    optimizer="muon", learning_rate=1e-2, schedule="cosine", adaptive_clip=True
)
_TUNED = dataclasses.replace(
    _FAST,
    source="the optimiser chosen by the validation error",
    training=loop.Settings(18, eval_every=3, average_decay=0.999),
    optimizer=MUON,
)


def find(model: str, name: str) -> Protocol:
    """The protocol of that name for a model.

    Raises:
      UserError: the model has none of that name.
    """
    fast = dataclasses.replace(_FAST, fields=_SMALL.get(model, {}))
    known = {"default": DEFAULT, "fast": fast}
    if model == "egnn":
        fields = {**_EGNN, "hidden_size": 256, "num_layers": 9}
        known = {
            "paper": dataclasses.replace(
                DEFAULT, source=_EDM, origin=PAPER, fields=fields
            ),
            "fast": fast,
            "tuned": dataclasses.replace(_TUNED, fields=fast.fields),
        }
    return named(known, model, name)
