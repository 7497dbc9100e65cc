"""Newton: learn the acceleration, integrate the motion.

Source: none; a model of this project. Every pair of bodies pulls along the line between
them, with a strength that a small network makes of their distance and of the features
of their edge. The accelerations are rolled out over the time to the target by the
kick-drift-kick leapfrog (Verlet 1967, doi 10.1103/PhysRev.159.98) with steps as short
as the closest pair of each system asks for.

What it knows: translations, rotations and reflections, action and reaction, that motion
can be reversed, that close bodies need short steps, that accelerations are bounded, or
(law=separable) smooth where bodies meet. It knows no law of force and no bound: sign,
strength, exponent, shape, softening, bound and the age of the velocities are learned
from the end points of motions. All bodies have the same mass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import geometry, graphs, integrators, pairs
from demetar.errors import UserError
from demetar.models import base, egnn, segnn
from demetar.nn import capture, inputs, mlp, pair_laws
from demetar.types import Array, Graph, Head, Nodes

SATURATIONS = ("pair", "radial", "component", "none")
MANY_BODY: Mapping[str, Callable[..., base.Model]] = {
    "egnn": egnn.EGNN,
    "segnn": segnn.SEGNN,
}
ACCELERATIONS = ("pair", *MANY_BODY)
LAWS = ("network", "separable")
LAG = 1e-3  # of the horizon: unit of the learned age of the velocities
POWER = 8  # of the saturation: how sharply it sets in
_SIGNS = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]])  # of three axes
START_BOUND = 10.0  # of the accelerations; learned from there

Accelerate: TypeAlias = integrators.AccelerationFn  # shifts [N, 3] -> [N, 3]


@dataclasses.dataclass
class Newton(base.Model):
    """Accelerations of pairs, rolled out. The defaults have 1,220 parameters.

    Attributes:
      horizon: time from the input to the target in units of length / velocity: a body
        that feels nothing moves by horizon * v. It is known of the data (steps * dt of
        the generator) and not learned, so a trained model can be asked for another.
      num_substeps, eval_substeps: steps of a roll-out in training and in evaluation.
      eta, eval_eta: length of a step is eta * (least distance of a pair)^1.5, but not
        so short that the last ones would be longer than it.
      stretch: no step is longer than this many times the mean one: else a few would do
        if nobody is close, and the rest of them be empty. With 1 all steps are equal.
      learned_lag: whether the age of the velocities is learned, or they belong to the
        positions.
      hidden_size: channels of the network of pairs, or of the many-body model.
      num_layers: its hidden layers, or the layers of the many-body model.
      saturation: 'pair' bounds the acceleration by each partner, so momentum is exact;
        'radial' the norm of the total; 'component' each component of the total, which
        leaves the octahedral group of symmetries, that of `newton_octahedral`; 'none'.
      acceleration: 'pair', or 'egnn' or 'segnn' for that model as the acceleration: it
        sees positions alone and all bodies at once, at every step.
      law: of pairs, over the distance r. 'network': network(log r, features) / r^p;
        'separable': network(features) times a smooth positive function of r, the same
        for all pairs, which knows short distances better (`pair_laws.separable_law`).
      smoothing, num_bumps: of law=separable: where its learned length begins, and how
        many bumps correct its power law.
      softening: length added in quadrature to every distance, far below all of them,
        so that gradients at coincident points are finite.
      num_frames: of saturation=component: evaluation averages over so many frames that
        turn with the system, a multiple of 4, and so forgets the axes again; 0: the
        frame of the data. Training is in the frame of the data, which shows the axes.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = frozenset({"node_vector"})
    needs = frozenset({"velocity"})
    small = {
        "num_substeps": 3,
        "eval_substeps": 5,
        "hidden_size": 11,
        "num_layers": 2,
    }

    horizon: float = 1.0
    num_substeps: int = 80
    eval_substeps: int = 320
    eta: float = 0.1
    eval_eta: float = 0.05
    stretch: float = 4.0
    learned_lag: bool = True
    hidden_size: int = 32
    num_layers: int = 2
    saturation: str = "pair"
    acceleration: str = "pair"
    law: str = "network"
    smoothing: float = 0.3
    num_bumps: int = 12
    softening: float = 1e-2
    num_frames: int = 0

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        self._check()
        move = self._averaged if self.num_frames and not is_training else self._moved
        motion = move(graph, is_training)
        capture.record("acceleration", motion.accelerations)
        return base.moved_heads(
            self.task, "newton", motion.positions, motion.velocities, graph.nodes
        )

    @hk.transparent
    def _moved(self, graph: Graph, is_training: bool) -> integrators.Motion:
        """Shifts and velocities at the target, accelerations at the input: [N, 3]."""
        velocities = jnp.asarray(inputs.vector(graph.nodes, self.task, "velocity"))
        many_body = self.acceleration != "pair"
        make = self._many_body_fn if many_body else self._pair_fn
        accelerate = make(graph)
        # Shifts from the input, so that a far-away origin costs no precision.
        start = integrators.start(jnp.zeros_like(velocities), velocities, accelerate)
        age = self._age(velocities.dtype)
        synchronous = velocities + age * start.accelerations
        end = self._roll_out(
            start._replace(velocities=synchronous), accelerate, is_training, graph
        )
        velocities = end.velocities - age * end.accelerations
        return integrators.Motion(end.positions, velocities, start.accelerations)

    @hk.transparent
    def _age(self, dtype: jnp.dtype) -> float | jax.Array:
        """By how much the velocities are older than the positions; 0 if not learned."""
        if not self.learned_lag:
            return 0.0
        return LAG * self.horizon * hk.get_parameter("lag", (), dtype, jnp.zeros)

    @hk.transparent
    def _averaged(self, graph: Graph, is_training: bool) -> integrators.Motion:
        """The mean of what `_moved` makes of the system in `num_frames` frames.

        The frames turn with the system: its principal axes with all their signs, which
        no system tells, turned by fixed rotations (frame averaging, Puny et al. 2022,
        arXiv 2110.03336). So the mean is E(3)-equivariant, and estimates what can be
        expected of a system whose orientation is not known. All signs turned at once
        change nothing, so there are four. Systems whose principal moments coincide have
        no such axes.
        """
        positions = geometry.centred_positions(graph)
        centred = graph.nodes._replace(positions=positions)
        axes = _principal_axes(centred, graph)  # [N, 3, 3]

        def in_frame(rotation: jax.Array) -> integrators.Motion:
            frames = rotation @ axes  # [N, 3, 3] an axis of the frame per row
            nodes = geometry.transform_nodes(centred, frames)
            motion = self._moved(dataclasses.replace(graph, nodes=nodes), is_training)
            found: integrators.Motion = jax.tree.map(
                lambda vectors: jnp.einsum("nf,nfc->nc", vectors, frames), motion
            )
            return found

        rotations = _fixed_rotations(self.num_frames // len(_SIGNS))
        fixed = (rotations[:, None] * _SIGNS[:, None, :]).reshape(-1, 3, 3)
        motions = hk.vmap(in_frame, split_rng=False)(jnp.asarray(fixed, axes.dtype))
        found: integrators.Motion = jax.tree.map(
            lambda vectors: vectors.mean(axis=0), motions
        )
        return found

    def _check(self) -> None:
        for name, known in (
            ("saturation", SATURATIONS),
            ("acceleration", ACCELERATIONS),
            ("law", LAWS),
        ):
            if getattr(self, name) not in known:
                raise UserError(
                    f"newton.{name} expects one of {', '.join(known)}, "
                    f"found {getattr(self, name)!r}"
                )
        if self.acceleration != "pair" and self.saturation == "pair":
            raise UserError(
                f"newton.saturation=pair bounds pairs, and acceleration="
                f"{self.acceleration} has none; set saturation=radial or none"
            )
        if self.num_frames % len(_SIGNS) or self.num_frames < 0:
            raise UserError(
                f"newton.num_frames expects 0 or a positive multiple of {len(_SIGNS)}, "
                f"found {self.num_frames}"
            )
        if self.num_frames and self.saturation != "component":
            raise UserError(
                f"newton.num_frames forgets axes, and saturation={self.saturation} "
                "knows none; set saturation=component or num_frames=0"
            )
        if self.smoothing <= 0 or self.num_bumps < 0:
            raise UserError(
                "newton expects a smoothing above 0 and num_bumps of at least 0, found "
                f"{self.smoothing} and {self.num_bumps}"
            )
        for name in ("num_substeps", "eval_substeps", "stretch"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"newton.{name} expects at least 1, found {getattr(self, name)}"
                )

    @hk.transparent
    def _roll_out(
        self,
        motion: integrators.Motion,
        accelerate: Accelerate,
        is_training: bool,
        graph: Graph,
    ) -> integrators.Motion:
        """The motion after the horizon.

        Positions are kept for the backward pass, and what a step makes of them is made
        again there. The length of the steps has no gradient: it is the integrator's.
        Recorded are the shifts after every step [steps, N, 3] and their times.
        """
        count = self.num_substeps if is_training else self.eval_substeps
        if self.stretch == 1:
            return self._equal_steps(motion, accelerate, count)
        eta = self.eta if is_training else self.eval_eta
        longest = self.stretch * self.horizon / count
        distances_fn = _distances_fn(graph, self.softening)
        keeps_path = capture.is_recording() and not self.num_frames

        def substep(
            carry: tuple[integrators.Motion, jax.Array], left: jax.Array
        ) -> tuple[tuple[integrators.Motion, jax.Array], Any]:
            motion, remaining = carry
            distances = distances_fn(jax.lax.stop_gradient(motion.positions))[1]
            least = pairs.least(distances[:, 0], graph)  # [N, 1]
            wanted = jnp.minimum(eta * least * jnp.sqrt(least), longest)
            dt = jnp.clip(wanted, remaining / left, remaining)
            motion = integrators.kick_drift_kick(accelerate, dt)(motion)
            remaining = remaining - dt
            passed = (motion.positions, self.horizon - remaining)
            return (motion, remaining), passed if keeps_path else None

        dtype = motion.positions.dtype
        remaining = jnp.full((graph.bucket.max_nodes, 1), self.horizon, dtype)
        left = jnp.arange(count, 0, -1, dtype)
        (motion, _), passed = hk.scan(hk.remat(substep), (motion, remaining), left)
        if passed is not None:
            capture.record("path", passed[0])
            capture.record("path_time", passed[1])
        return motion

    @hk.transparent
    def _equal_steps(
        self, motion: integrators.Motion, accelerate: Accelerate, count: int
    ) -> integrators.Motion:
        """The motion after the horizon, in steps that look at no distance."""
        step_fn = integrators.kick_drift_kick(accelerate, self.horizon / count)
        keeps_path = capture.is_recording() and not self.num_frames

        def substep(
            motion: integrators.Motion, _: None
        ) -> tuple[integrators.Motion, Any]:
            motion = step_fn(motion)
            return motion, motion.positions if keeps_path else None

        motion, passed = hk.scan(hk.remat(substep), motion, None, length=count)
        if passed is not None:
            times = self.horizon * jnp.arange(1, count + 1)[:, None, None] / count
            capture.record("path", passed)
            capture.record("path_time", jnp.broadcast_to(times, (*passed.shape[:2], 1)))
        return motion

    @hk.transparent
    def _pair_fn(self, graph: Graph) -> Accelerate:
        """Accelerations along x_i - x_j, as strong as the law says."""
        distances_fn = _distances_fn(graph, self.softening)
        law = self._law(pairs.features(graph.edges, graph))
        saturate = self._saturation(graph.nodes.positions.dtype)

        def accelerate(shifts: jax.Array) -> jax.Array:
            vectors, distances = distances_fn(shifts)  # [P, 3], [P, 1]
            pulls = law(distances) * vectors
            if self.saturation == "pair":
                pulls = saturate(pulls)
            total = pairs.sum_to_nodes(pulls, graph)  # [N, 3]
            return total if self.saturation == "pair" else saturate(total)

        return accelerate

    @hk.transparent
    def _law(self, features: Array) -> pair_laws.Law:
        """Acceleration over distance, by distances and features [P, F] of pairs."""
        network = mlp.MLP([self.hidden_size] * self.num_layers + [1], name="force")
        if self.law == "network":
            return pair_laws.network_law(features, network)
        return pair_laws.separable_law(
            *(features, network, self.smoothing, self.num_bumps),
            self.task.radial_extent,
        )

    @hk.transparent
    def _many_body_fn(self, graph: Graph) -> Accelerate:
        """The displacements that a registered model makes of bodies at rest."""
        head = Head("acceleration", "node_vector", base="positions")
        task = dataclasses.replace(self.task, heads=(head,))
        width = "hidden_units" if self.acceleration == "segnn" else "hidden_size"
        model = MANY_BODY[self.acceleration](
            task,
            num_layers=self.num_layers,
            **{width: self.hidden_size},
        )
        nodes = graph.nodes
        at_rest = jnp.zeros_like(nodes.vectors)
        saturate = self._saturation(nodes.positions.dtype)

        def accelerate(shifts: jax.Array) -> jax.Array:
            moved = nodes._replace(positions=nodes.positions + shifts, vectors=at_rest)
            outputs = model(dataclasses.replace(graph, nodes=moved), False)
            return saturate(jnp.asarray(outputs[head.name])[:, 0])

        return accelerate

    @hk.transparent
    def _saturation(self, dtype: jnp.dtype) -> Callable[[jax.Array], jax.Array]:
        """A (1 + |a|^8 / A^8)^(-1/8) with a learned A, by norm or by component."""
        if self.saturation == "none":
            return lambda vectors: vectors
        start = hk.initializers.Constant(jnp.log(START_BOUND))
        log_bound = hk.get_parameter("log_bound", (), dtype, start)

        def saturate(vectors: jax.Array) -> jax.Array:
            squares = jnp.square(vectors * jnp.exp(-log_bound))
            if self.saturation != "component":
                squares = squares.sum(axis=-1, keepdims=True)
            # As written the eighth power would overflow in float32.
            large = jnp.maximum(squares, 1)
            half = POWER // 2
            inner = (squares / large) ** half + large**-half
            return vectors * inner ** (-1 / POWER) * jax.lax.rsqrt(large)

        return saturate


@dataclasses.dataclass
class NewtonOctahedral(Newton):
    """Newton whose accelerations saturate by component, along the axes of the frame.

    The simulator of the charged systems clips each component of a force, so its motions
    are symmetric under the 48 signed permutations of the axes, not under rotations.
    """

    symmetry: ClassVar[str] = "octahedral"

    saturation: str = "component"


def _principal_axes(centred: Nodes, graph: Graph) -> jax.Array:
    """Axes of the moments of centred positions and of vectors of each node's graph.

    Returns:
      [N, 3, 3], one axis per row.
    """
    vectors = [jnp.asarray(centred.positions)[:, None], jnp.asarray(centred.vectors)]
    stacked = jnp.concatenate(vectors, axis=1)  # [N, 1 + V, 3]
    moments = jnp.einsum("nvi,nvj->nij", stacked, stacked)
    of_graph = graphs.pool_sum(moments.reshape(-1, 9), graph)  # [G, 9]
    axes = jnp.linalg.eigh(of_graph.reshape(-1, 3, 3))[1]
    rows = axes.swapaxes(1, 2).reshape(-1, 9)
    of_node = graphs.broadcast_to_nodes(jax.lax.stop_gradient(rows), graph)
    return of_node.reshape(-1, 3, 3)


def _fixed_rotations(count: int) -> np.ndarray:
    """Rotations drawn uniformly once and for all: [count, 3, 3]."""
    quaternions = np.random.default_rng(0).normal(size=(count, 4))
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _distances_fn(
    graph: Graph, softening: float
) -> Callable[[Array], tuple[jax.Array, jax.Array]]:
    """Vectors x_i - x_j [P, 3] and distances [P, 1] of pairs, by shifts [N, 3]."""
    start = pairs.differences(graph.nodes.positions, graph)

    def distances(shifts: Array) -> tuple[jax.Array, jax.Array]:
        vectors = start + pairs.differences(shifts, graph)
        squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
        return vectors, jnp.sqrt(squares + softening**2)

    return distances
