"""Every model against its authors' own code, in float64: outputs and gradients."""

import jax
import jax.numpy as jnp
import pytest

from tests import authors

CASES = authors.all_cases()


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{case.model}-{case.file}" for case in CASES]
)
def test_output_and_gradient_are_the_authors(case, shared_dir, record_property):
    with jax.enable_x64(True):
        loaded = case.load(authors.read(shared_dir, case.file))
        positions = jnp.asarray(loaded.positions)

        def total(positions, params):
            output = loaded.output(params, positions)
            return output.sum(), output

        function = jax.jit(jax.value_and_grad(total, has_aux=True))
        (_, found), gradient = function(positions, loaded.params)
        assert found.dtype == "float64"
        deviation = authors.relative_error(found, loaded.expected)
        record_property("deviation", deviation)
        assert deviation < case.tolerance
        if loaded.gradient is not None:
            deviation = authors.relative_error(gradient, loaded.gradient)
            record_property("gradient_deviation", deviation)
            assert deviation < (case.gradient_tolerance or case.tolerance)
        # Negative control: weights that are a little off are noticed.
        changed = jax.tree.map(lambda leaf: leaf * (1 + 1e-6), loaded.params)
        (_, other), _ = function(positions, changed)
        assert authors.relative_error(other, loaded.expected) > case.tolerance
