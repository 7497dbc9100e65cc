"""The EGNN in PyTorch that the benchmark compares with computes what ours does."""

import importlib.util

import jax
import numpy as np
import pytest

from demetar import models, testing
from demetar.types import Batch
from tests.support import authors
from tests.support.author_cases import egnn

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


def theirs(params, batch, task, fields, names):
    """What the network in PyTorch makes of the batch."""
    from experiments.benchmark import torch_egnn

    config = torch_egnn.Config(
        num_inputs=params["egnn/embedding"]["w"].shape[0],
        num_edge_features=len(task.edge_features),
        moving=any(head.kind == "node_vector" for head in task.heads),
        **{name: value for name, value in fields.items() if name != "node_inputs"},
    )
    given = torch_egnn.Inputs.of(batch, task, names)
    return torch_egnn.make(config, params)(given).detach().numpy()


@needs_torch
@pytest.mark.parametrize("regular", [True, False])
def test_random_weights_move_particles_alike(regular):
    with jax.enable_x64(True):
        batch = testing.float64_batch(regular)
        task, fields = testing.TASK, {"hidden_size": 7, "num_layers": 3}
        model = models.build("egnn", task, fields)
        key = jax.random.key(0)
        params = model.init(key, batch.graph, False)
        params = jax.tree.map(lambda w: np.asarray(w, np.float64) * 1.5, params)
        ours = model.apply(params, None, batch.graph, False)
        expected = batch.graph.nodes.positions + np.asarray(ours["position"][:, 0])
        found = theirs(params, batch, task, fields, ("|velocity|",))
        assert np.abs(np.asarray(ours["position"])).max() > 1e-3
        np.testing.assert_allclose(found, expected[: len(found)], rtol=0, atol=1e-12)


@needs_torch
def test_it_is_the_authors_network(shared_dir):
    with jax.enable_x64(True):
        data = authors.read(shared_dir, "egnn_nbody")
        graph = egnn.bodies(data)
        params = egnn.load_bodies(data, "egnn").params
        batch = Batch(graph, {}, np.ones(graph.bucket.num_graphs))
        found = theirs(params, batch, egnn.BODIES, {}, ("|velocity|",))
        np.testing.assert_allclose(found, data["prediction"], rtol=1e-10)


@needs_torch
def test_it_is_the_authors_network_of_molecules(shared_dir):
    with jax.enable_x64(True):
        data = authors.read(shared_dir, "egnn_qm9")
        graph = egnn.molecules(data)
        params = egnn.load_molecules(data).params
        batch = Batch(graph, {}, np.ones(graph.bucket.num_graphs))
        found = theirs(params, batch, egnn.MOLECULES, egnn.MOLECULE_FIELDS, ("all",))
        np.testing.assert_allclose(found, data["prediction"], rtol=1e-9)


def test_without_pytorch_the_error_is_one_line(run_python):
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from demetar.errors import UserError\n"
        "try:\n    from experiments.benchmark import torch_egnn\n"
        "except UserError as error:\n    print('refused:', error)\n"
    )
    done = run_python(code)
    assert done.stdout.startswith("refused: the comparison with PyTorch needs PyTorch")
