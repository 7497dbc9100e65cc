"""The Equiformer in e3nn that the benchmark compares with computes what ours does."""

import functools
import importlib.util

import jax
import numpy as np
import pytest

from demetar.nn import steerable
from experiments.benchmark import aspirin, potentials, programs
from tests.support import authors
from tests.support.author_cases import equiformer

needs_e3nn = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torch", "e3nn")),
    reason="PyTorch or e3nn is not installed",
)


@needs_e3nn
def test_it_is_the_authors_network(shared_dir):
    import torch

    from experiments.benchmark import e3nn_equiformer, e3nn_weights

    with jax.enable_x64(True):
        data = authors.read(shared_dir, "equiformer_natural_parity")
        told = authors.config(data)
        sizes = e3nn_equiformer.Config(
            num_species=len(equiformer.SPECIES),
            extent=told["max_radius"],
            average_neighbors=told["avg_degree"],
            hidden_irreps=told["irreps"],
            num_layers=told["num_layers"],
            feature_size=steerable.parse_channels(told["feature"])[steerable.SCALAR],
            num_basis=told["basis"],
            radial_sizes=tuple(told["fc_neurons"]),
            num_heads=told["num_heads"],
        )
        species = data["atomic_numbers"][:, None] == np.array(equiformer.SPECIES)
        given = e3nn_equiformer.Molecules(
            torch.tensor(species.astype(float)),
            torch.tensor(data["senders"]),
            torch.tensor(data["receivers"]),
            torch.tensor(data["batch"]),
            len(data["prediction"]),
        )
        params = equiformer.load(data).params
        for change in (1.0, 1 + 1e-6):
            changed = jax.tree.map(lambda leaf, by=change: leaf * by, params)
            model = e3nn_weights.make(sizes, changed)
            positions = torch.tensor(data["positions"]).requires_grad_()
            found = model(positions, given)
            (gradient,) = torch.autograd.grad(found.sum(), positions)
            errors = [
                authors.relative_error(values.detach().numpy(), expected)
                for values, expected in (
                    (found, data["prediction"][:, 0]),
                    (gradient, data["grad_positions"]),
                )
            ]
            # The negative control: weights that are a little off are noticed.
            assert (max(errors) < 1e-10) == (change == 1.0), errors


@needs_e3nn
def test_it_is_ours_on_frames_of_aspirin():
    from experiments.benchmark import e3nn_weights, torch_potentials

    fields = {
        **potentials.POTENTIALS["equiformer"],
        "hidden_irreps": "8x0e+4x1o+4x2e",
        "num_layers": 2,
        "feature_size": 8,
    }
    dataset = aspirin.frames(2)
    batch = programs.only_batch(dataset)
    model, params = programs.initialised("equiformer", batch, dataset.task, fields)
    generator = np.random.default_rng(0)
    params = jax.tree.map(  # none stays 0
        lambda leaf: np.float32(leaf + 0.1 * generator.normal(size=leaf.shape)), params
    )
    ours = jax.jit(functools.partial(programs.outputs, model))(params, batch)

    frames = torch_potentials.Frames.of(batch)
    built = torch_potentials.build("equiformer", fields, frames)
    run = torch_potentials.program(built, frames, "latency")
    config = torch_potentials.equiformer_config(fields, frames)
    network = e3nn_weights.make(config, params)
    for same in (False, True):  # with weights of its own it is another function
        if same:
            built[0].load_state_dict(network.state_dict())
        energies, slopes = (values.detach().numpy() for values in run())
        forces = np.asarray(ours["forces"])[: len(slopes), 0]
        assert (authors.relative_error(-slopes, forces) < 1e-4) == same
        errors = authors.relative_error(energies, ours["energy"][:2, 0])
        assert (errors < 1e-5) == same


@needs_e3nn
def test_what_no_energy_depends_on_is_left_out():
    from experiments.benchmark import torch_potentials, torch_side

    frames = torch_potentials.Frames.of(programs.only_batch(aspirin.frames(1)))
    fields = potentials.POTENTIALS["equiformer"]
    module, energies = torch_potentials.build("equiformer", fields, frames)
    energies(frames.positions).sum().backward()
    idle = [name for name, leaf in module.named_parameters() if leaf.grad is None]
    assert not idle and torch_side.num_params(module) > 100_000


@needs_e3nn
def test_other_parities_are_refused():
    from experiments.benchmark import torch_potentials

    frames = torch_potentials.Frames.of(programs.only_batch(aspirin.frames(1)))
    fields = {**potentials.POTENTIALS["equiformer"], "hidden_irreps": "4x0e+4x1e"}
    with pytest.raises(ValueError, match="expected 0e, 1o, 2e"):
        torch_potentials.build("equiformer", fields, frames)
