"""Models against the outputs and gradients of the authors' own code, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import golden

RELATIVE_TOLERANCE = 1e-9


def relative_error(found, expected):
    scale = max(float(np.max(np.abs(expected))), 1e-12)
    return float(np.max(np.abs(np.asarray(found) - expected))) / scale


@pytest.mark.parametrize("name", sorted(golden.CASES))
def test_prediction_and_gradients_are_the_authors(name, shared_dir):
    with jax.enable_x64(True):
        case = golden.load(name, shared_dir)
        assert relative_error(case.predict(case.params), case.prediction) < (
            RELATIVE_TOLERANCE
        )
        loss, gradients = jax.value_and_grad(case.loss)(case.params)
        assert relative_error(loss, case.expected_loss) < RELATIVE_TOLERANCE
        assert len(case.gradients) >= 28
        for path, expected in case.gradients.items():
            found = golden.lookup(gradients, path)
            assert relative_error(found, expected) < RELATIVE_TOLERANCE, path


@pytest.mark.parametrize("name", sorted(golden.CASES))
def test_a_changed_weight_is_noticed(name, shared_dir):
    with jax.enable_x64(True):
        case = golden.load(name, shared_dir)
        changed = jax.tree.map(lambda leaf: leaf * (1 + 1e-6), case.params)
        error = relative_error(case.predict(changed), case.prediction)
        assert error > RELATIVE_TOLERANCE
        assert jnp.isfinite(error)


def test_molecules_are_the_authors(shared_dir):
    """EGNN in its QM9 form: no moving coordinates, attention, sum over the atoms."""
    with jax.enable_x64(True):
        case = golden.load_molecules(shared_dir)
        assert case.prediction.shape == (8,)
        found = case.predict(case.params)
        assert relative_error(found, case.prediction) < RELATIVE_TOLERANCE
        changed = jax.tree.map(lambda leaf: leaf * (1 + 1e-6), case.params)
        error = relative_error(case.predict(changed), case.prediction)
        assert RELATIVE_TOLERANCE < error < 1e-2
