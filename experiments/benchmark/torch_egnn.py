"""EGNN in plain PyTorch with our weights: what the benchmark compares with.

Written as the equations stand: features of both ends side by side at every edge, a
perceptron on them, sums by `index_add`. Nothing else imports this module, and nothing
in the program needs PyTorch.

Source: Satorras, Hoogeboom, Welling 2021, arXiv 2102.09844, equations 3 to 8.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from demetar import graphs
from demetar.nn import inputs
from demetar.types import Batch, Params, TaskSpec
from experiments.benchmark import torch_side

torch = torch_side.torch
nn = torch.nn
Module: Any = nn.Module

NODE_INPUTS = ("|velocity|",)  # of N-body


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a network, as the fields of `demetar.models.egnn.EGNN`.

    Attributes:
      num_inputs: invariants per node.
      num_edge_features: features per edge, without squared distances.
      moving: whether coordinates move, and vectors are what is predicted.
      hidden_size, num_layers, coordinate_clip, attention, node_attributes: as there.
    """

    num_inputs: int
    num_edge_features: int
    moving: bool
    hidden_size: int = 64
    num_layers: int = 4
    coordinate_clip: float = 100.0
    attention: bool = False
    node_attributes: bool = False


class Layer(Module):
    """One round of message passing."""

    def __init__(self, config: Config):
        super().__init__()
        size = config.hidden_size
        # Squared distances: now, and where coordinates move at the start too.
        edges = config.num_edge_features + (2 if config.moving else 1)
        attributes = config.num_inputs if config.node_attributes else 0
        self.clip = config.coordinate_clip
        self.edge = nn.Sequential(
            nn.Linear(2 * size + edges, size),
            nn.SiLU(),
            nn.Linear(size, size),
            nn.SiLU(),
        )
        self.node = nn.Sequential(
            nn.Linear(2 * size + attributes, size), nn.SiLU(), nn.Linear(size, size)
        )
        self.attention = self.coordinate = self.velocity = None
        if config.attention:
            self.attention = nn.Sequential(nn.Linear(size, 1), nn.Sigmoid())
        if config.moving:
            self.coordinate = nn.Sequential(
                nn.Linear(size, size), nn.SiLU(), nn.Linear(size, 1, bias=False)
            )
            self.velocity = nn.Sequential(
                nn.Linear(size, size), nn.SiLU(), nn.Linear(size, 1)
            )

    def forward(
        self, nodes: Any, attributes: Any, positions: Any, edges: Any, given: Inputs
    ) -> tuple[Any, Any]:
        """Nodes [N, C], attributes [N, A], positions [N, 3], edges [E, F] -> the first
        and the third, updated.
        """
        senders, receivers = given.senders, given.receivers
        vectors = positions[receivers] - positions[senders]  # [E, 3]
        squares = vectors.square().sum(dim=1, keepdim=True)
        pairs = [nodes[receivers], nodes[senders], squares, edges]
        messages = self.edge(torch.cat(pairs, dim=1))  # [E, C]
        if self.attention is not None:
            messages = messages * self.attention(messages)
        if self.coordinate is not None and self.velocity is not None:
            moves = vectors * self.coordinate(messages)
            moves = torch.clamp(moves, -self.clip, self.clip)
            total = torch.zeros_like(positions).index_add_(0, receivers, moves)
            drift = self.velocity(nodes) * given.velocities
            positions = positions + total / given.num_neighbors + drift
        received = torch.zeros_like(nodes).index_add_(0, receivers, messages)
        update = self.node(torch.cat([nodes, received, attributes], dim=1))
        return nodes + update, positions


class EGNN(Module):
    """The network of `demetar.models.egnn` with one head, of vectors or of graphs."""

    def __init__(self, config: Config):
        super().__init__()
        size = config.hidden_size
        self.config = config
        self.embedding = nn.Linear(config.num_inputs, size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        if not config.moving:
            self.node_decoder = nn.Sequential(
                nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size)
            )
            self.decoder = nn.Sequential(
                nn.Linear(size, size), nn.SiLU(), nn.Linear(size, 1)
            )

    def forward(self, given: Inputs) -> Any:
        """Final positions [N, 3], or one number per graph [G]."""
        nodes = self.embedding(given.features)
        keep = given.features.shape[1] if self.config.node_attributes else 0
        attributes = given.features[:, :keep]
        positions, edges = given.positions, given.edges
        if self.config.moving:
            vectors = positions[given.receivers] - positions[given.senders]
            squares = vectors.square().sum(dim=1, keepdim=True)
            edges = torch.cat([edges, squares], dim=1)
        for layer in self.layers:
            nodes, positions = layer(nodes, attributes, positions, edges, given)
        if self.config.moving:
            return positions
        decoded = self.node_decoder(nodes)
        pooled = decoded.new_zeros(given.num_graphs, decoded.shape[1])
        pooled.index_add_(0, given.graph_of_node, decoded)
        return self.decoder(pooled)[:, 0]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """A batch as tensors, without padding.

    Attributes:
      features: [N, S] invariants.
      positions: [N, 3].
      velocities: [N, 3]; empty if the task has none.
      edges: [E, F].
      senders, receivers: [E].
      num_neighbors: [N, 1] at least 1.
      graph_of_node: [N].
      num_graphs: of the batch.
    """

    features: Any
    positions: Any
    velocities: Any
    edges: Any
    senders: Any
    receivers: Any
    num_neighbors: Any
    graph_of_node: Any
    num_graphs: int

    @classmethod
    def of(cls, batch: Batch, task: TaskSpec, names: tuple[str, ...]) -> Inputs:
        """The real part of a batch; nodes start from the invariants `names`."""
        graph = batch.graph
        nodes, edges = (
            np.flatnonzero(mask(graph)) for mask in (graphs.node_mask, graphs.edge_mask)
        )
        features = np.asarray(inputs.invariants(graph.nodes, task, names))
        velocities = np.zeros((len(nodes), 0))
        if task.vectors:
            velocities = np.asarray(inputs.vector(graph.nodes, task, "velocity"))
        neighbors = np.asarray(graphs.num_neighbors(graph))
        of_node = np.asarray(graphs.graph_of_node(graph))
        of_node = of_node[nodes]
        dtype = np.asarray(graph.nodes.positions).dtype

        def tensor(values: Any, rows: Any, dtype: Any) -> Any:
            return torch_side.tensor(np.asarray(values)[rows], dtype)

        return cls(
            features=tensor(features, nodes, dtype),
            positions=tensor(graph.nodes.positions, nodes, dtype),
            velocities=tensor(velocities, slice(len(nodes)), dtype),
            edges=tensor(graph.edges, edges, dtype),
            senders=tensor(graph.senders, edges, np.int64),
            receivers=tensor(graph.receivers, edges, np.int64),
            num_neighbors=tensor(neighbors, nodes, dtype),
            graph_of_node=torch_side.tensor(of_node, np.int64),
            num_graphs=int(of_node.max()) + 1,
        )


def make(config: Config, params: Params) -> EGNN:
    """The network with the parameters of ours, each of which finds its place.

    Raises:
      ValueError: parameters are left over, missing, or of another shape.
    """
    dtype = next(iter(jax.tree.leaves(params))).dtype
    model = EGNN(config).to(getattr(torch, str(dtype)))
    state = {}
    for name, module in _names(config, params).items():
        for leaf, suffix in (("w", "weight"), ("b", "bias")):
            if leaf in params[name]:
                value = np.array(params[name][leaf]).T
                state[f"{module}.{suffix}"] = torch.tensor(value.copy())
    if len(state) != len(jax.tree.leaves(params)):
        raise ValueError(f"placed {len(state)} of {len(jax.tree.leaves(params))}")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    return model.to(torch_side.device())


def _names(config: Config, params: Params) -> Mapping[str, str]:
    """Our modules by theirs."""
    names = {"egnn/embedding": "embedding"}
    if not config.moving:
        (head,) = (
            name.split("/")[1]
            for name in params
            if name.startswith("egnn/decoder_") and name.endswith("linear_0")
        )
        names |= _perceptron("egnn/node_decoder", "node_decoder")
        names |= _perceptron(f"egnn/{head}", "decoder")
    for layer in range(config.num_layers):
        ours, theirs = f"_{layer}", f"layers.{layer}"
        names[f"egnn/edge_linear{ours}"] = f"{theirs}.edge.0"
        names[f"egnn/edge_linear{ours}_1"] = f"{theirs}.edge.2"
        names |= _perceptron(f"egnn/node_mlp{ours}", f"{theirs}.node")
        if config.attention:
            names[f"egnn/attention{ours}"] = f"{theirs}.attention.0"
        if config.moving:
            names[f"egnn/coordinate_linear{ours}"] = f"{theirs}.coordinate.0"
            names[f"egnn/coordinate_linear{ours}_1"] = f"{theirs}.coordinate.2"
            names |= _perceptron(f"egnn/velocity_mlp{ours}", f"{theirs}.velocity")
    return names


def _perceptron(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}/linear_{index}": f"{theirs}.{2 * index}" for index in range(2)}


def network(
    params: Params, batch: Batch, task: TaskSpec, fields: Mapping[str, Any]
) -> tuple[EGNN, Inputs]:
    """The network for the one head of a task, and what it reads.

    Args:
      params, batch, task: ours.
      fields: of the model, as `models.build` takes them.
    """
    fields = dict(fields)
    names = fields.pop("node_inputs", NODE_INPUTS)
    moving = task.heads[0].kind == "node_vector"
    config = Config(len(names), len(task.edge_features), moving=moving, **fields)
    return make(config, params), Inputs.of(batch, task, names)


def forward_run(
    params: Params,
    batch: Batch,
    task: TaskSpec,
    fields: Mapping[str, Any],
    compiled: bool = False,
) -> Callable[[], Any]:
    """The forward pass, without what a gradient would need.

    Args:
      params, batch, task, fields: as `network` takes them.
      compiled: whether `torch.compile` makes kernels of the network.
    """
    model: Any
    model, given = network(params, batch, task, fields)
    if compiled:
        model = torch.compile(model, dynamic=False)

    def run() -> Any:
        with torch.inference_mode():
            return model(given)

    return run


def step_run(
    params: Params,
    batch: Batch,
    task: TaskSpec,
    fields: Mapping[str, Any],
    compiled: bool = False,
) -> Callable[[], Any]:
    """A training step: error as the head has it, gradient, PyTorch's own Adam.

    Args:
      params, batch, task, fields: as `network` takes them.
      compiled: whether `torch.compile` makes kernels of the network.
    """
    (head,) = task.heads
    model, given = network(params, batch, task, fields)
    count = len(given.positions) if model.config.moving else given.num_graphs
    # Vectors [N, 1, 3] and numbers [G, 1] alike lose the axis of the outputs.
    targets = torch_side.tensor(batch.targets[head.name][:count, 0])
    optimizer = torch.optim.Adam(model.parameters(), 5e-4)
    called: Any = torch.compile(model, dynamic=False) if compiled else model

    def run() -> Any:
        optimizer.zero_grad()
        errors = called(given) - targets
        loss = (errors.abs() if head.error == "absolute" else errors.square()).mean()
        loss.backward()
        optimizer.step()
        return loss

    return run
