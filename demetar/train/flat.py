"""Trees of parameters as vectors, for as long as a compiled call runs.

What an optimiser does to each parameter alike is then one kernel instead of one per
parameter and operation. Between calls states keep their names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import optax
from jax import flatten_util

from demetar.types import Array, Params, TrainState


def flatten(
    state: TrainState,
) -> tuple[TrainState, Callable[[TrainState], TrainState]]:
    """A state whose trees of parameters, those of the optimiser too, are vectors.

    Args:
      state: of the replicas [R, ...].

    Returns:
      The state with vectors [R, P], and what makes a state of the first kind of it.
    """
    structure: Any = jax.tree.structure(state.params)

    def is_params(node: Any) -> bool:
        return bool(structure == jax.tree.structure(node))

    outer: Any
    parts, outer = jax.tree.flatten(state, is_leaf=is_params)
    chosen = [is_params(part) for part in parts]
    restore = jax.vmap(_restore(state.params))

    def restore_state(flat: TrainState) -> TrainState:
        leaves = outer.flatten_up_to(flat)
        both = zip(leaves, chosen, strict=True)
        found: TrainState = outer.unflatten(
            [restore(leaf) if own else leaf for leaf, own in both]
        )
        return found

    ravel: Any = jax.vmap(lambda tree: flatten_util.ravel_pytree(tree)[0])
    both = zip(parts, chosen, strict=True)
    vectors = [ravel(part) if own else part for part, own in both]
    return outer.unflatten(vectors), restore_state


def of_vectors(model: hk.Transformed, params: Params) -> hk.Transformed:
    """The model, applied to the vector [P] of the parameters of one replica.

    Args:
      model: applied to trees of parameters.
      params: such a tree, of the replicas [R, ...].
    """
    restore = _restore(params)

    def apply(flat: Array, *args: Any) -> Any:
        return model.apply(restore(flat), *args)

    return hk.Transformed(model.init, apply)


def optimizer_of_vectors(
    optimizer: optax.GradientTransformation, params: Params
) -> optax.GradientTransformation:
    """An optimiser that treats matrices as such, for vectors [P] of parameters.

    Its state stays as it is.

    Args:
      optimizer: of trees of parameters.
      params: such a tree, of the replicas [R, ...].
    """
    restore = _restore(params)

    def update(gradients: Array, state: Any, flat: Any = None) -> tuple[Any, Any]:
        updates, state = optimizer.update(restore(gradients), state, restore(flat))
        return flatten_util.ravel_pytree(updates)[0], state

    return optax.GradientTransformation(optimizer.init, update)


def _restore(params: Params) -> Callable[[Any], Any]:
    """What makes the parameters of one replica of their vector [P]."""
    return flatten_util.ravel_pytree(jax.tree.map(lambda leaf: leaf[0], params))[1]
