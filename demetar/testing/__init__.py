"""The contract that every model keeps, for the project's models and everybody's.

    from demetar import testing

    for verdict in testing.check("my_package.my_module:MyModel"):
        print(verdict.promise, verdict.kept, verdict.detail)

`python -m experiments.check_model MODEL` prints the verdicts. The functions `assert_*`
are the promises, one by one, of a `Subject`: a model with small systems and drawn
parameters. They raise `BrokenPromise`, an AssertionError.
"""

from demetar.testing.batches import (
    ATOMS,
    BUCKET,
    IDENTITY,
    MOLECULES,
    NO_SHIFT,
    POTENTIAL,
    SHIFT,
    SHORT_RANGED,
    SIZES,
    TASK,
    System,
    float64_batch,
    make_batch,
    make_samples,
    moved,
    octahedral_group,
    random_system,
    regular_batch,
    rotation,
    systems,
)
from demetar.testing.measure import (
    BROKEN,
    TOLERANCE,
    BrokenPromise,
    assert_not_degenerate,
    relative_error,
    transformation_error,
)
from demetar.testing.potentials import (
    assert_at_rest,
    assert_both_modes,
    assert_fades,
    assert_slopes,
    largest_jump,
    potential_task,
)
from demetar.testing.promises import (
    assert_alone,
    assert_every_input_matters,
    assert_finite,
    assert_initial_values,
    assert_inputs_matter,
    assert_learns,
    assert_mates_change_nothing,
    assert_one_trace,
    assert_saves_and_loads,
    assert_shapes,
    inputs_of,
)
from demetar.testing.subject import (
    Subject,
    home_task,
    home_tasks,
    initializers,
    quick_params,
    small_fields,
)
from demetar.testing.symmetry import assert_permutation, assert_symmetry
from demetar.testing.verdicts import Verdict, check

__all__ = [
    "ATOMS",
    "BROKEN",
    "BUCKET",
    "BrokenPromise",
    "IDENTITY",
    "MOLECULES",
    "NO_SHIFT",
    "POTENTIAL",
    "SHIFT",
    "SHORT_RANGED",
    "SIZES",
    "Subject",
    "System",
    "TASK",
    "TOLERANCE",
    "Verdict",
    "assert_alone",
    "assert_at_rest",
    "assert_both_modes",
    "assert_every_input_matters",
    "assert_fades",
    "assert_finite",
    "assert_initial_values",
    "assert_inputs_matter",
    "assert_learns",
    "assert_mates_change_nothing",
    "assert_not_degenerate",
    "assert_one_trace",
    "assert_permutation",
    "assert_saves_and_loads",
    "assert_shapes",
    "assert_slopes",
    "assert_symmetry",
    "check",
    "float64_batch",
    "home_task",
    "home_tasks",
    "initializers",
    "inputs_of",
    "largest_jump",
    "make_batch",
    "make_samples",
    "moved",
    "octahedral_group",
    "potential_task",
    "quick_params",
    "random_system",
    "regular_batch",
    "relative_error",
    "rotation",
    "small_fields",
    "systems",
    "transformation_error",
]
