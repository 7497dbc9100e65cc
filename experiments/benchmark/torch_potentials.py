"""Published PyTorch codes of energies and forces, as the benchmark times them.

Each is built in the size of ours and given the same frames. They are installed by name
(`torch_side.INSTALL`); nothing in the program needs them. Equiformer, whose published
code asks for old releases, is written anew in `e3nn_equiformer`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from demetar.errors import UserError
from demetar.types import Batch
from experiments.benchmark import aspirin, torch_side

torch = torch_side.torch

ATOMIC_NUMBERS = (1, 6, 8)  # of `aspirin.ELEMENTS`


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

        ends = np.stack([graph.senders, graph.receivers])[:, real]
        return cls(
            torch_side.tensor(graph.nodes.positions[nodes], np.float32),
            torch_side.tensor(np.argmax(graph.nodes.scalars[nodes], axis=1), np.int64),
            torch_side.tensor(ends, np.int64),
            torch_side.tensor(np.arange(count).repeat(size), np.int64),
            torch_side.tensor(size * np.arange(count + 1), np.int64),
            torch_side.tensor(batch.targets["energy"][:count, 0], np.float32),
            torch_side.tensor(batch.targets["forces"][nodes, 0], np.float32),
        )

    @property
    def atomic_numbers(self) -> Any:
        """[N]."""
        return torch_side.tensor(ATOMIC_NUMBERS, np.int64)[self.species]


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


def equiformer(fields: Mapping[str, Any], frames: Frames) -> Built:
    """Equiformer in e3nn's layers."""
    from experiments.benchmark import e3nn_equiformer

    module = e3nn_equiformer.of(equiformer_config(fields, frames))
    senders, receivers = frames.edges
    given = e3nn_equiformer.Molecules(
        torch.nn.functional.one_hot(frames.species, len(ATOMIC_NUMBERS)).float(),
        senders,
        receivers,
        frames.graph_of_node,
        len(frames.energies),
    )
    return module, lambda x: module(x, given)


def equiformer_config(fields: Mapping[str, Any], frames: Frames) -> Any:
    """Sizes of Equiformer in e3nn by the fields of ours."""
    from experiments.benchmark import e3nn_equiformer

    return e3nn_equiformer.Config(
        num_species=len(ATOMIC_NUMBERS),
        extent=aspirin.CUTOFF,
        average_neighbors=frames.edges.shape[1] / len(frames.positions),
        **{name: value for name, value in fields.items() if name != "node_inputs"},
    )


BUILDERS: Mapping[str, Callable[[Mapping[str, Any], Frames], Built]] = {
    "nequip": nequip,
    "torchmd_et": torchmd_et,
    "schnet": schnet,
    "equiformer": equiformer,
}


def _needed(name: str) -> Any:
    """A module of a published code.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(torch_side.missing(name.partition(".")[0], error)) from None


def build(
    name: str, fields: Mapping[str, Any], frames: Frames, compiled: bool = False
) -> Built:
    """A code on the device, with the fields of ours.

    Args:
      name: of our model.
      fields: of it.
      frames: what it computes.
      compiled: whether e3nn leaves its code to `torch.compile`.
    """
    with _e3nn_code("eager" if compiled else "script"):
        module, energies = BUILDERS[name](fields, frames)
    return module.to(torch_side.device()), energies


@contextmanager
def _e3nn_code(mode: str) -> Iterator[None]:
    """What e3nn makes of the code that it generates; nothing if it is not there."""
    try:
        e3nn = importlib.import_module("e3nn")
    except ImportError:
        yield
        return
    before = e3nn.get_optimization_defaults()["jit_mode"]
    e3nn.set_optimization_defaults(jit_mode=mode)
    try:
        with warnings.catch_warnings():  # one for each of hundreds of modules
            warnings.filterwarnings("ignore", "The TorchScript type system")
            yield
    finally:
        e3nn.set_optimization_defaults(jit_mode=before)


Both = Callable[[Any], tuple[Any, Any]]  # of positions: energies [G], slopes [N, 3]


def energies_and_slopes(energies: Energies, what: str) -> Both:
    """Both as one function of the positions, which a 'step' can differentiate."""

    def both(positions: Any) -> tuple[Any, Any]:
        positions = positions.detach().requires_grad_()
        found = energies(positions)
        (slopes,) = torch.autograd.grad(
            found.sum(), positions, create_graph=what == "step"
        )
        return found, slopes

    return both


def program(
    built: Built, frames: Frames, what: str, compiled: bool = False
) -> Callable[[], Any]:
    """A program of a code.

    Args:
      built: of `build`, with the same `compiled`.
      frames: what it computes.
      what: 'step' for a training step, 'latency' for energies and their slopes.
      compiled: whether `torch.compile` makes kernels of it.
    """
    module, energies = built
    both = energies_and_slopes(energies, what)
    if compiled:
        traced = torch_side.traced(both, frames.positions)
        both = torch.compile(traced, dynamic=False)
    if what == "step":
        return step_run(module, both, frames)
    return functools.partial(
        torch.no_grad()(both) if compiled else both, frames.positions
    )


def step_run(module: Any, both: Both, frames: Frames) -> Callable[[], Any]:
    """A training step: mean of both squared errors, gradient, PyTorch's own Adam."""
    optimizer = torch.optim.Adam(module.parameters(), 5e-4)

    def run() -> Any:
        optimizer.zero_grad()
        found, slopes = both(frames.positions)
        loss = (found - frames.energies).square().mean()
        loss = (loss + (-slopes - frames.forces).square().mean()) / 2
        loss.backward()
        optimizer.step()
        return loss

    return run
