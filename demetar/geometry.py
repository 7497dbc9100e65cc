"""Geometry that models make from positions and vectors.

Everything here is a function of arrays alone, differentiable everywhere (coincident
points and zero vectors included), and equivariant under rotations and reflections.
"""

from __future__ import annotations

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp

from demetar import graphs
from demetar.types import Array, Graph, Nodes


def safe_norm(vectors: Array, axis: int = -1, keepdims: bool = False) -> jax.Array:
    """Euclidean norm whose gradient at the zero vector is zero instead of NaN.

    Args:
      vectors: [..., 3] or any array with components along `axis`.
      axis: axis of the components.
      keepdims: keep `axis` with length 1.

    Returns:
      Norms in the unit of `vectors`.
    """
    squared = jnp.sum(jnp.square(vectors), axis=axis, keepdims=keepdims)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def unit_vectors(vectors: Array) -> jax.Array:
    """Directions of vectors [..., 3]; 0 for the zero vector, with a finite gradient."""
    norms = safe_norm(vectors, keepdims=True)
    return jnp.divide(vectors, jnp.where(norms > 0, norms, 1.0))


def edge_differences(values: Array, graph: Graph) -> jax.Array:
    """values_i - values_j for each edge from sender j to receiver i: [E, C]."""
    receivers = graphs.gather_receivers(values, graph)
    return receivers - graphs.gather_senders(values, graph)


def edge_vectors(graph: Graph) -> jax.Array:
    """x_i - x_j for each edge from sender j to receiver i: [E, 3]."""
    return edge_differences(graph.nodes.positions, graph)


def centred_positions(graph: Graph, masses: Array | None = None) -> jax.Array:
    """Positions relative to the centroid of the particles of each graph: [N, 3].

    The mean runs over the particles, for each of x, y and z: a mean over the three
    coordinates of a particle would depend on the axes.

    Args:
      graph: the batch.
      masses: [N, 1]; if given, the positions are relative to the centre of mass.
    """
    positions = jnp.asarray(graph.nodes.positions)
    centroids = graphs.pool_mean(positions, graph)  # [G, 3]
    centred = positions - graphs.broadcast_to_nodes(centroids, graph)
    if masses is None:
        return centred
    totals = graphs.pool_sum(masses, graph)  # [G, 1]; 0 of padding
    moments = graphs.pool_sum(jnp.multiply(masses, centred), graph)
    centres = moments / jnp.where(totals > 0, totals, 1.0)
    return centred - graphs.broadcast_to_nodes(centres, graph)


def spherical_harmonics(
    vectors: Array, lmax: int, solid: bool = False
) -> dict[int, jax.Array]:
    """Real spherical harmonics of the directions of vectors, up to degree lmax.

    The normalisation is e3nn's 'integral' one (the mean square over the sphere is
    1 / 4 pi), the component order e3nn-jax's. A zero vector has zero harmonics for
    every degree above 0, with zero gradient unless they are solid.

    Args:
      vectors: [X, 3].
      lmax: highest degree.
      solid: multiply by the length to the power of the degree, which makes polynomials
        of them.

    Returns:
      {degree l: [2l + 1, X]}, component-major.
    """
    arguments = jnp.asarray(vectors) if solid else unit_vectors(vectors)  # [X, 3]
    harmonics = {}
    for degree in range(lmax + 1):
        values = e3nn.spherical_harmonics(
            e3nn.Irreps([(1, (degree, (-1) ** degree))]),
            arguments,
            normalize=False,
            normalization="integral",
        ).array  # [X, 2l + 1]
        harmonics[degree] = values.T
    return harmonics


def random_rotations(key: Array, shape: tuple[int, ...] = ()) -> jax.Array:
    """Rotation matrices uniform in SO(3): [*shape, 3, 3], in the default dtype."""
    found: jax.Array = e3nn.rand_matrix(key, shape, jnp.zeros(()).dtype)
    return found


def transform_nodes(nodes: Nodes, matrices: Array) -> Nodes:
    """Positions and vectors under one orthogonal matrix [3, 3] or one per node.

    Args:
      nodes: with vectors that are polar (parity -1) where a matrix reflects.
      matrices: [3, 3] or [N, 3, 3].

    Returns:
      The nodes as an observer in the transformed frame sees them.
    """
    matrices = jnp.broadcast_to(matrices, (*nodes.positions.shape[:-1], 3, 3))
    return nodes._replace(
        positions=jnp.einsum("nij,nj->ni", matrices, nodes.positions),
        vectors=jnp.einsum("nij,nvj->nvi", matrices, nodes.vectors),
    )
