"""Training protocols by model on drawing conformers: those of drawing molecules.

GeoDiff's own settings (Xu et al. 2022, arXiv 2203.02923) are of its encoders, which are
none of the models here.
"""

from __future__ import annotations

import dataclasses

from demetar.generation.conformer_graphs import Settings as Data
from experiments.protocols import generate
from experiments.protocols.settings import Protocol, named


def find(model: str, name: str) -> Protocol:
    """The protocol of that name for a model.

    Raises:
      UserError: the model has none of that name.
    """
    small = generate.find(model, "fast")
    default = dataclasses.replace(
        small, source="small models, one schedule", data=Data(), name="default"
    )
    known = {"default": default}
    if model == "egnn":
        known["tuned"] = dataclasses.replace(
            default,
            source="small models; the optimiser chosen by the validation error",
            optimizer=generate.MUON,
        )
    return named(known, model, name)
