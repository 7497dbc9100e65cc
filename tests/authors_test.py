"""Every model against its authors' own code, in float64: outputs and gradients."""

import jax
import numpy as np
import pytest

from tests.support import authors

CASES = authors.all_cases()


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=f"{case.model}-{case.file}",
            marks=[pytest.mark.slow] if case.slow else [],
        )
        for case in CASES
    ],
)
def test_output_and_gradient_are_the_authors(case, shared_dir):
    with jax.enable_x64(True):
        loaded = case.load(authors.read(shared_dir, case.file))
        comparison = authors.Comparison(loaded)
        found = comparison.deviations()
        assert found.output < case.tolerance
        for gradient in (found.gradient, found.weight_gradient):
            if gradient is not None:
                assert gradient < (case.gradient_tolerance or case.tolerance)
        if loaded.difference_step is not None:
            # A smaller step meets few kinks, so most differences are derivatives.
            expected = comparison.differences(1e-5)
            error = np.median(np.abs(comparison.gradient() - expected))
            assert error < 1e-8 * np.abs(expected).max()
        # Negative control: weights that are a little off are noticed.
        changed = jax.tree.map(lambda leaf: leaf * (1 + 1e-6), loaded.params)
        assert comparison.output_deviation(changed) > case.tolerance


def test_every_golden_file_of_a_model_has_a_case(shared_dir):
    stems = {path.stem for path in (shared_dir / "golden").glob("*.npz")}
    simulations = {stem for stem in stems if "_seed43_" in stem}
    assert len(simulations) < len(stems)
    own = {path.stem for path in authors.OWN_FILES.glob("*.npz")}
    assert own.isdisjoint(stems)
    assert sorted(case.file for case in CASES) == sorted(stems - simulations | own)
