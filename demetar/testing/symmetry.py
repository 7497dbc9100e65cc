"""The promises of symmetry, by the group that a model states, and of permutations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from demetar import models
from demetar.models import base
from demetar.testing.batches import (
    IDENTITY,
    NO_SHIFT,
    SHIFT,
    System,
    octahedral_group,
    rotation,
    systems,
)
from demetar.testing.measure import (
    BROKEN,
    relative_error,
    require,
    tell_small,
    transformation_error,
)
from demetar.testing.subject import Subject

Promise = Callable[[Subject], str]  # tells how well it is kept


def assert_translations(subject: Subject) -> str:
    """Outputs do not depend on the origin."""
    error = transformation_error(subject, IDENTITY, SHIFT)
    return tell_small(error, subject, "moving all particles changes the outputs")


def assert_rotations(subject: Subject) -> str:
    """Outputs turn with the inputs."""
    error = transformation_error(subject, rotation(), NO_SHIFT)
    return tell_small(error, subject, "outputs do not turn with the inputs")


def assert_reflections(subject: Subject) -> str:
    """Outputs are mirrored with the inputs."""
    error = transformation_error(subject, -rotation(), NO_SHIFT)
    return tell_small(error, subject, "outputs are not mirrored with the inputs")


def assert_octahedral(subject: Subject) -> str:
    """Outputs follow the inputs under the 48 signed permutations of the axes."""
    errors = [
        transformation_error(subject, matrix, NO_SHIFT) for matrix in octahedral_group()
    ]
    worst = float(np.max(errors))  # NaN, if one is
    return tell_small(worst, subject, "outputs do not follow exchanged axes")


def assert_breaks_rotations(subject: Subject) -> str:
    """A model that states a smaller symmetry has no larger one: negative control."""
    error = transformation_error(subject, rotation(), NO_SHIFT)
    told = f"relative error {error:.1e}, at least {BROKEN:.0e}"
    symmetry = models.model_class(subject.name).symmetry
    require(
        error > BROKEN,
        f"outputs turn with the inputs ({told}), which the symmetry {symmetry!r} does "
        "not say; state 'E(3)' or 'SE(3)'",
    )
    return told


OF_SYMMETRY: dict[str, dict[str, Promise]] = {
    "E(3)": {
        "translations": assert_translations,
        "rotations": assert_rotations,
        "reflections": assert_reflections,
    },
    "SE(3)": {"translations": assert_translations, "rotations": assert_rotations},
    "octahedral": {
        "translations": assert_translations,
        "exchanges of axes": assert_octahedral,
        "no other rotations": assert_breaks_rotations,
    },
    "T(3)": {
        "translations": assert_translations,
        "no rotations": assert_breaks_rotations,
    },
    "S(n)": {"no rotations": assert_breaks_rotations},
}


def assert_symmetry(subject: Subject) -> None:
    """Rotation, reflection, translation as the model states them."""
    symmetry = models.model_class(subject.name).symmetry
    require(symmetry in base.SYMMETRIES, f"{symmetry!r} is no symmetry")
    for promise in OF_SYMMETRY[symmetry].values():
        promise(subject)


def assert_permutation(subject: Subject) -> str:
    """Renumbering the particles of each system renumbers outputs of nodes alone."""
    members = systems()
    generator = np.random.default_rng(11)
    orders = [generator.permutation(len(system.charges)) for system in members]
    permuted = [
        System(system.positions[order], system.velocities[order], system.charges[order])
        for system, order in zip(members, orders, strict=True)
    ]
    expected = subject.displacements(subject.batch(members))
    if subject.task.heads[0].kind != "graph_scalar":
        starts = np.cumsum([0, *(len(order) for order in orders)])[:-1]
        expected = expected[
            np.concatenate(
                [order + start for order, start in zip(orders, starts, strict=True)]
            )
        ]
    found = subject.displacements(subject.batch(permuted))
    error = relative_error(found, expected)
    return tell_small(error, subject, "outputs depend on the order of particles")
