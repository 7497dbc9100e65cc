"""The Equiformer in e3nn that the benchmark compares with computes what ours does."""

import importlib.util

import jax
import numpy as np
import pytest

from demetar import models
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

    from experiments.benchmark import e3nn_equiformer

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
            *(torch.tensor(data[name]) for name in ("senders", "receivers", "batch")),
            num_graphs=len(data["prediction"]),
        )
        params = equiformer.load(data).params
        for change in (1.0, 1 + 1e-6):
            changed = jax.tree.map(lambda leaf, by=change: leaf * by, params)
            model = e3nn_equiformer.make(sizes, changed)
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
