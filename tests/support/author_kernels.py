"""Places the weights of the authors' tensor field networks in our tree.

The authors find each coupling tensor as the null space of a matrix, so its sign is
arbitrary. The files hold those that were used; weights are placed with the sign
between them and ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import e3nn_jax as e3nn
import jax
import numpy as np

from demetar import models
from demetar.nn import steerable
from demetar.types import Head, TaskSpec, VectorInput
from experiments.protocols import nbody as protocols
from tests.support import authors

TASK = TaskSpec(
    name="golden",
    heads=(Head("position", "node_vector", base="positions"),),
    scalars=("charge",),
    vectors=(VectorInput("velocity"),),
    edge_features=(),
    length_unit="length",
    radial_extent=1.0,
    average_neighbors=4.0,
)
Channels = Mapping[int, int]  # of each degree
Part = tuple[str, Sequence[int]]  # name in the authors' code, degrees out


def coupling_signs(data: authors.Data, source: int, target: int) -> np.ndarray:
    """The authors' kernels of each J over ours: [J] of 1 and -1.

    Their harmonics are taken at the opposite point: (-1)^J times ours.
    """
    signs = []
    shape = (2 * target + 1, 2 * source + 1, -1)
    for degree in range(abs(source - target), source + target + 1):
        theirs = data[f"basis/Q_{degree}_{source}_{target}"].reshape(shape)
        ours = np.asarray(e3nn.clebsch_gordan(source, degree, target))
        overlap = np.einsum("lkj,kjl->", theirs, ours)
        assert abs(abs(overlap) - 1) < 1e-12  # both have norm 1
        signs.append(round(overlap) * (-1) ** degree)
    return np.array(signs)


class Placement:
    """Weights of a file on their way to our tree; each is taken once."""

    def __init__(self, model: str, data: authors.Data):
        self.model = model
        self.tree: dict[str, dict[str, np.ndarray]] = {}
        self._data = data
        self._shared = authors.config(data)["tied_radial_hidden"]
        self._left = {key for key in data if key.startswith("param/")}

    @staticmethod
    def irrep(degree: int) -> steerable.Irrep:
        return steerable.natural_irrep(degree)

    def assert_all_taken(self) -> None:
        assert not self._left

    def take(self, name: str) -> np.ndarray:
        key = f"param/se3.{name}"
        self._left.remove(key)
        return self._data[key]

    def linear(self, ours: str, theirs: str) -> None:
        w, b = self.take(f"{theirs}.weight").T, self.take(f"{theirs}.bias")
        self._put(ours, {"w": w, "b": b})

    def norm(self, ours: str, theirs: str) -> None:
        scale, offset = self.take(f"{theirs}.bn.weight"), self.take(f"{theirs}.bn.bias")
        self._put(ours, {"scale": scale, "offset": offset})

    def mixes(self, ours: str, weights: Mapping[int, np.ndarray]) -> None:
        """Channels out times channels in, for each degree."""
        placed = {f"w_{self.irrep(degree)}": w.T for degree, w in weights.items()}
        self._put(ours, placed)

    def convolution(
        self, ours: str, theirs: str, sources: Channels, targets: Sequence[int]
    ) -> None:
        self.kernels(f"{ours}/kernels", [(theirs, targets)], sources)
        own = {
            degree: self.take(f"{theirs}.kernel_self.{degree}")[0]
            for degree in targets
            if degree in sources
        }
        self.mixes(f"{ours}/self_interaction", own)

    def kernels(self, ours: str, parts: Sequence[Part], sources: Channels) -> None:
        """Radial networks of all pairs of degrees, in the order of our stack."""
        pairs = [
            (source, target, part)
            for source in sources
            for target in sorted({degree for _, out in parts for degree in out})
            for part, (_, out) in enumerate(parts)
            if target in out
        ]
        hidden, last = [], {}
        for source, target, part in pairs:
            net = f"{parts[part][0]}.kernel_unary.({source},{target}).rp.net"
            hidden.append(self._hidden(net))
            last[source, target, part] = self._last(
                net, (source, target), sources[source]
            )
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *hidden)
        if self._shared:
            for leaf in jax.tree.leaves(stacked):
                assert (leaf == leaf[:1]).all()
            stacked = jax.tree.map(lambda leaf: leaf[:1], stacked)
        for name, layer in stacked.items():
            self._put(f"{ours}/radial{name}", layer)
        for name, blocks in self._named(last).items():
            columns = blocks.reshape(len(blocks), -1)
            self._put(f"{ours}/radial_{name}", {"w": columns[1:], "b": columns[0]})

    def _named(
        self, last: Mapping[tuple[int, int, int], np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Last layers under our names: of each pair and part, or of each degree in."""
        if not self._shared:
            return {
                f"{part}_{self.irrep(source)}_{self.irrep(target)}": blocks
                for (source, target, part), blocks in last.items()
            }
        joined: dict[str, np.ndarray] = {}
        for source in sorted({key[0] for key in last}):
            rows = []
            for target in sorted({key[1] for key in last}):
                parts = [last[key] for key in last if key[:2] == (source, target)]
                blocks = np.concatenate(parts, axis=-1)
                rows.append(blocks.reshape(*blocks.shape[:2], -1))
            joined[str(self.irrep(source))] = np.concatenate(rows, axis=-1)
        return joined

    def _hidden(self, net: str) -> dict[str, dict[str, np.ndarray]]:
        """The two hidden layers of a radial network, and their normalisations."""
        linear, norms = {}, {}
        for index, (layer, norm) in enumerate(((0, 1), (3, 4))):
            linear[f"w_{index}"] = self.take(f"{net}.{layer}.weight").T
            linear[f"b_{index}"] = self.take(f"{net}.{layer}.bias")[None]
            norms[f"/norm_{index}"] = {
                "scale": self.take(f"{net}.{norm}.bn.weight")[None],
                "offset": self.take(f"{net}.{norm}.bn.bias")[None],
            }
        return {"": linear, **norms}

    def _last(self, net: str, pair: tuple[int, int], num_inputs: int) -> np.ndarray:
        """The last layer as [1 + H, channels in, J, channels out], the bias first."""
        rows = np.stack([self.take(f"{net}.6.bias"), *self.take(f"{net}.6.weight").T])
        signs = coupling_signs(self._data, *pair)
        blocks = rows.reshape(len(rows), -1, num_inputs, len(signs)) * signs
        return blocks.transpose(0, 2, 3, 1)

    def _put(self, name: str, layer: dict[str, np.ndarray]) -> None:
        self.tree[f"{self.model}/{name}"] = layer


def load(
    model: str, data: authors.Data, place: Callable[[Placement, int, int], None]
) -> authors.Loaded:
    """A golden file of a model.

    Args:
      model: name in the registry.
      data: the file.
      place: of (placement, layers, channels of each degree): takes all weights.
    """
    config = authors.config(data)
    placement = Placement(model, data)
    place(placement, config["num_layers"], config["num_channels"])
    placement.assert_all_taken()
    fields = {
        **protocols.find(model, "paper").fields,
        "hidden_size": config["num_channels"],
        "num_layers": config["num_layers"],
        "shared_radial": config["tied_radial_hidden"],
    }
    if "head_size" in fields:
        fields["head_size"] = config["num_channels"] // config["n_heads"]
    network = models.build(model, TASK, fields)
    graph = authors.ragged_graph(
        data["positions"],
        data["charges"],
        data["senders"],
        data["receivers"],
        np.full(4, 5),
        vectors=data["velocities"][:, None],
    )

    def output(params: Any, positions: jax.Array) -> jax.Array:
        moved = authors.with_positions(graph, positions)
        outputs = network.apply(params, None, moved, False)
        return outputs["position"][: len(positions), 0]

    shapes = jax.eval_shape(
        lambda key: network.init(key, graph, False), jax.random.key(0)
    )
    same = jax.tree.map(
        lambda leaf, ours: leaf.shape == ours.shape, placement.tree, shapes
    )
    assert all(jax.tree.leaves(same))
    return authors.Loaded(
        params=placement.tree,
        output=output,
        positions=data["positions"],
        expected=data["displacement"],
        # Theirs is of the prediction, positions + displacement.
        gradient=data["grad_positions"] - 1,
    )
