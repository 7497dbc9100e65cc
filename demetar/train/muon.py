"""Muon: momentum whose steps of matrices are orthogonal, with Adam for all else.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, as
`optax.contrib.muon` has it. A small network has many small matrices of few shapes:
those of one shape are stacked, so that each step of the iteration that makes them
orthogonal is one product instead of one per matrix.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import flatten_util
from optax import contrib

from demetar.types import Params

_REST = "rest"
_STACKED = contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)


def muon(rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """The optimiser; both kinds of parameters have the same rate.

    Args:
      rate: learning rate by step.
      weight_decay: coefficient, times the rate, of what is taken off all parameters.
    """
    inner = contrib.muon(
        rate,
        weight_decay=weight_decay,
        adam_weight_decay=weight_decay,
        muon_weight_dimension_numbers=lambda groups: {
            name: None if name == _REST else _STACKED for name in groups
        },
    )

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(_grouped(gradients), state, _grouped(params))
        return _ungrouped(updates, gradients), state

    return optax.GradientTransformation(
        lambda params: inner.init(_grouped(params)), update
    )


def _members(params: Params) -> dict[str, list[int]]:
    """Numbers of the leaves of each group: matrices of one shape, and the rest."""
    found: dict[str, list[int]] = {}
    for index, leaf in enumerate(jax.tree.leaves(params)):
        name = "x".join(map(str, leaf.shape)) if leaf.ndim == 2 else _REST
        found.setdefault(name, []).append(index)
    return found


def _grouped(params: Params) -> dict[str, jax.Array]:
    """{shape: [matrices, rows, columns], 'rest': [numbers]}."""
    leaves = jax.tree.leaves(params)
    return {
        name: flatten_util.ravel_pytree([leaves[row] for row in rows])[0]
        if name == _REST
        else jnp.stack([leaves[row] for row in rows])
        for name, rows in _members(params).items()
    }


def _ungrouped(groups: dict[str, jax.Array], like: Params) -> Params:
    """Parameters of the structure of `like`."""
    leaves, structure = jax.tree.flatten(like)
    for name, rows in _members(like).items():
        parts: Any = groups[name]
        if name == _REST:
            own = [leaves[row] for row in rows]
            parts = flatten_util.ravel_pytree(own)[1](groups[name])
        for index, row in enumerate(rows):
            leaves[row] = parts[index]
    found: Params = jax.tree.unflatten(structure, leaves)
    return found
