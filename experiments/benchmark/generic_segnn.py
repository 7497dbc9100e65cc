"""SEGNN of e3nn-jax's own layers: what the benchmark compares with.

Written as the equations stand: features of both ends side by side at every edge, e3nn's
tensor product with the attribute, then one matrix per irrep. The function is that of
`demetar.models.segnn` with the same parameters, for one vector per node.

Source: Brandstetter et al. 2022, arXiv 2110.02905, section 3.1; Geiger & Smidt 2022,
arXiv 2207.09453, for the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp

from demetar import geometry
from demetar.nn import inputs
from demetar.types import Array, Batch, Params, TaskSpec

NODE_INPUTS = ("|velocity|",)  # invariants that the nodes start from
Rows: TypeAlias = e3nn.IrrepsArray  # [X, irreps]


def tensor_product(
    weights: Mapping[str, Array], features: Rows, steering: Rows
) -> Rows:
    """All couplings of features with an attribute, mixed: [X, irreps].

    Args:
      weights: `w_IRREP` [sum of input channels over paths, C'] and `b_0e` [C'].
      features: [X, irreps] in the order of the irreps.
      steering: [X, irreps] the attribute, one channel of each irrep.
    """
    wanted = [e3nn.Irrep(name[2:]) for name in weights if name.startswith("w_")]
    coupled = e3nn.tensor_product(features, steering, filter_ir_out=wanted)
    irreps, chunks = [], []
    for (_, irrep), chunk in zip(coupled.irreps, coupled.chunks, strict=True):
        w = weights[f"w_{irrep}"]
        mixed = jnp.einsum("xci,cd->xdi", chunk, w)
        if f"b_{irrep}" in weights:
            mixed += jnp.asarray(weights[f"b_{irrep}"])[:, None]
        irreps.append((w.shape[1], irrep))
        chunks.append(mixed)
    lead = (features.shape[0],)
    return e3nn.from_chunks(e3nn.Irreps(irreps), chunks, lead, features.dtype)


def gate(features: Rows) -> Rows:
    """SiLU on scalars, sigmoids of the last scalars times the rest: [X, irreps]."""
    return e3nn.gate(
        features, even_act=jax.nn.silu, even_gate_act=jax.nn.sigmoid
    ).regroup()


def forward(
    params: Params, batch: Batch, task: TaskSpec, lmax: int, num_layers: int = 4
) -> jax.Array:
    """Offsets of the nodes of complete graphs: [N, 1, 3].

    Args:
      params: of `demetar.models.segnn` with `lmax_hidden` and `lmax_attributes` of
        `lmax` and with `num_layers`.
      batch: every slot holds a graph.
      task: names of the inputs.
    """
    graph, num_nodes = batch.graph, batch.graph.bucket.max_nodes
    senders, receivers = graph.senders, graph.receivers
    degree = batch.graph.bucket.max_edges / num_nodes

    def product(name: str, *given: Rows) -> Rows:
        return tensor_product(params[f"segnn/{name}"], *given)

    def harmonics(vectors: Array) -> Rows:
        irreps = e3nn.Irreps.spherical_harmonics(lmax)
        return e3nn.spherical_harmonics(irreps, jnp.asarray(vectors), True, "integral")

    def received(messages: Rows) -> Rows:
        return e3nn.scatter_sum(messages, dst=receivers, output_size=num_nodes)

    differences = graph.nodes.positions[senders] - graph.nodes.positions[receivers]
    of_edges = harmonics(differences)
    of_nodes = received(of_edges) / degree
    for index in range(len(task.vectors)):
        of_nodes += harmonics(graph.nodes.vectors[:, index])
    of_nodes = e3nn.concatenate(
        [
            e3nn.IrrepsArray("0e", jnp.ones((num_nodes, 1), of_nodes.dtype)),
            of_nodes[:, 1:],
        ]
    )
    lengths = jnp.linalg.norm(differences, axis=-1, keepdims=True)
    scalars = jnp.concatenate([lengths, graph.edges], axis=-1)
    edges = e3nn.IrrepsArray(f"{scalars.shape[1]}x0e", scalars)

    invariants = inputs.invariants(graph.nodes, task, NODE_INPUTS)
    centred = geometry.centred_positions(graph)
    vectors = jnp.concatenate([centred[:, None], graph.nodes.vectors], axis=1)
    given = e3nn.from_chunks(
        f"{invariants.shape[1]}x0e+{vectors.shape[1]}x1o",
        [jnp.asarray(invariants)[..., None], vectors],
        (num_nodes,),
        vectors.dtype,
    )
    nodes = product("embedding", given, of_nodes)
    for layer in range(num_layers):
        ends = [nodes[receivers], nodes[senders], edges]
        messages = e3nn.concatenate(ends).regroup()
        messages = gate(product(f"message_{layer}_0", messages, of_edges))
        messages = gate(product(f"message_{layer}_1", messages, of_edges))
        both = e3nn.concatenate([nodes, received(messages)]).regroup()
        update = gate(product(f"update_{layer}_0", both, of_nodes))
        nodes += product(f"update_{layer}_1", update, of_nodes)
    nodes = gate(product("readout_0", nodes, of_nodes))
    (head,) = task.heads
    outputs = product(f"readout_{head.name}", nodes, of_nodes)
    return outputs.array.reshape(num_nodes, head.size, 3)
