"""Published PyTorch codes of energies and forces, as the benchmark times them.

Each is built in the size of ours and given the same frames. They are installed by name
(`INSTALL`); nothing in the program needs them.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from demetar.errors import UserError
from demetar.types import Batch
from experiments.benchmark import aspirin

INSTALL = "python -m pip install torch torch_geometric nequip==0.6.1 torchmd-net"
ATOMIC_NUMBERS = (1, 6, 8)  # of `aspirin.ELEMENTS`

try:
    import torch
except ImportError:
    raise UserError(
        "the comparison with PyTorch needs PyTorch, which is not installed; install "
        "`torch` as https://pytorch.org says, or leave the comparison out"
    ) from None


@dataclasses.dataclass(frozen=True)
class Frames:
    """A batch of frames as tensors, without padding.

    Attributes:
      positions: [N, 3] in Å.
      species: [N] columns of `aspirin.ELEMENTS`.
      edges: [2, E] senders and receivers.
      graph_of_node: [N].
      starts: [G + 1] first node of each frame, and the number of nodes.
      energies, forces: targets [G] and [N, 3].
    """

    positions: Any
    species: Any
    edges: Any
    graph_of_node: Any
    starts: Any
    energies: Any
    forces: Any

    @classmethod
    def of(cls, batch: Batch) -> Frames:
        """The real part of a batch of `aspirin.frames`."""
        graph = batch.graph
        count = int(np.sum(batch.weights))
        size = len(aspirin.ATOMS)
        real = np.asarray(graph.receivers) < count * size
        nodes = slice(count * size)

        def tensor(values: Any, dtype: Any) -> Any:
            return torch.tensor(np.array(values), dtype=dtype)

        ends = np.stack([graph.senders, graph.receivers])[:, real]
        return cls(
            tensor(graph.nodes.positions[nodes], torch.float32),
            tensor(np.argmax(graph.nodes.scalars[nodes], axis=1), torch.int64),
            tensor(ends, torch.int64),
            torch.arange(count).repeat_interleave(size),
            size * torch.arange(count + 1),
            tensor(batch.targets["energy"][:count, 0], torch.float32),
            tensor(batch.targets["forces"][nodes, 0], torch.float32),
        )

    @property
    def atomic_numbers(self) -> Any:
        """[N]."""
        return torch.tensor(ATOMIC_NUMBERS)[self.species]


Energies = Callable[[Any], Any]  # of positions [N, 3]: [G]
Built = tuple[Any, Energies]  # a module and the function


def schnet(fields: Mapping[str, Any], frames: Frames) -> Built:
    """PyTorch-Geometric's SchNet, which is given the edges of the frames."""
    module = _needed("torch_geometric.nn.models.schnet").SchNet(
        hidden_channels=fields["hidden_size"],
        num_filters=fields["hidden_size"],
        num_interactions=fields["num_layers"],
        num_gaussians=1 + round(fields["basis_extent"] / fields["basis_step"]),
        cutoff=aspirin.CUTOFF,
        interaction_graph=lambda positions, _: (
            frames.edges,
            (positions[frames.edges[0]] - positions[frames.edges[1]]).norm(dim=-1),
        ),
    )
    numbers, graph_of_node = frames.atomic_numbers, frames.graph_of_node
    return module, lambda x: module(numbers, x, graph_of_node)[:, 0]


def torchmd_et(fields: Mapping[str, Any], frames: Frames) -> Built:
    """The equivariant transformer of torchmd-net, which finds its own edges."""
    module = _needed("torchmdnet.models.model").create_model(
        {
            "model": "equivariant-transformer",
            "embedding_dimension": fields["num_heads"] * fields["head_size"],
            "num_layers": fields["num_layers"],
            "num_heads": fields["num_heads"],
            "num_rbf": fields["num_basis"],
            "rbf_type": "expnorm",
            "trainable_rbf": False,
            "activation": "silu",
            "attn_activation": "silu",
            "neighbor_embedding": True,
            "distance_influence": "both",
            "vector_cutoff": True,
            "cutoff_lower": 0.0,
            "cutoff_upper": aspirin.CUTOFF,
            "max_z": 10,
            "max_num_neighbors": 32,
            "derivative": False,
            "aggr": "add",
            "output_model": "Scalar",
            "reduce_op": "add",
            "precision": 32,
            "prior_model": None,
            "atom_filter": -1,
            "static_shapes": False,
            "remove_ref_energy": False,
            "box_vecs": None,
            "check_errors": False,
        }
    )
    numbers, graph_of_node = frames.atomic_numbers, frames.graph_of_node
    return module, lambda x: module(numbers, x, graph_of_node)[0][:, 0]


def nequip(fields: Mapping[str, Any], frames: Frames) -> Built:
    """The network of nequip of energies, which is given the edges of the frames."""
    config = {
        "model_builders": ["SimpleIrrepsConfig", "EnergyModel"],
        "r_max": aspirin.CUTOFF,
        "num_layers": fields["num_layers"],
        "l_max": fields["lmax"],
        "parity": True,
        "num_features": fields["hidden_size"],
        "num_basis": fields["num_basis"],
        "invariant_layers": len(fields["radial_sizes"]),
        "invariant_neurons": fields["radial_sizes"][0],
        "avg_num_neighbors": frames.edges.shape[1] / len(frames.positions),
        "use_sc": True,
        "nonlinearity_type": "gate",
        "chemical_symbols": list(aspirin.ELEMENTS),
        "default_dtype": "float32",
        "model_dtype": "float32",
    }
    settings = _needed("nequip.utils").Config.from_dict(config)
    module = _needed("nequip.model").model_from_config(settings, initialize=False)
    given = {
        "edge_index": frames.edges.flip(0),  # theirs sums at the first
        "atom_types": frames.species,
        "batch": frames.graph_of_node,
        "ptr": frames.starts,
    }
    return module, lambda x: module({**given, "pos": x})["total_energy"][:, 0]


BUILDERS: Mapping[str, Callable[[Mapping[str, Any], Frames], Built]] = {
    "nequip": nequip,
    "torchmd_et": torchmd_et,
    "schnet": schnet,
}


def _needed(name: str) -> Any:
    """A module of a published code.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"the comparison with PyTorch needs {name.partition('.')[0]} ({error}); "
            f"`{INSTALL}` installs what it compares with"
        ) from None


def latency_run(energies: Energies, frames: Frames) -> Callable[[], Any]:
    """Energies and forces of the frames."""
    positions = frames.positions.clone().requires_grad_()

    def run() -> Any:
        found = energies(positions)
        return found, -torch.autograd.grad(found.sum(), positions)[0]

    return run


def step_run(module: Any, energies: Energies, frames: Frames) -> Callable[[], Any]:
    """A training step: mean of both squared errors, gradient, PyTorch's own Adam."""
    optimizer = torch.optim.Adam(module.parameters(), 5e-4)
    positions = frames.positions.clone().requires_grad_()

    def run() -> Any:
        optimizer.zero_grad()
        found = energies(positions)
        slopes = torch.autograd.grad(found.sum(), positions, create_graph=True)[0]
        loss = (found - frames.energies).square().mean()
        loss = (loss + (-slopes - frames.forces).square().mean()) / 2
        loss.backward()
        optimizer.step()
        return loss

    return run
