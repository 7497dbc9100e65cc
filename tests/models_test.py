"""The registry: parameter counts, refusals, fields as a person writes them."""

import dataclasses

import haiku as hk
import jax
import numpy as np
import pytest

from demetar import geometry, graphs, models, testing
from demetar.errors import UserError
from demetar.models import base, segnn
from demetar.types import Head, TaskSpec, VectorInput


def num_params(name, task=testing.TASK, **fields):
    """Parameters on N-body or another task, by shapes alone."""
    model = models.build(name, task, fields)
    batch = testing.make_batch(testing.systems(), task=task)
    params = jax.eval_shape(
        lambda key: model.init(key, batch.graph, True), jax.random.key(0)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "name, expected",
    [("egnn", 134_020), ("gnn", 104_387), ("segnn", 147_424), ("linear", 1)],
)
def test_parameter_counts(name, expected):
    assert num_params(name) == expected


def test_fields_change_the_model():
    assert num_params("linear_map") == 6 * 3 + 3
    assert num_params("egnn", hidden_size=8) < 134_020
    assert num_params("gnn", num_layers=5) > 104_387


def test_build_refuses_what_it_does_not_know():
    with pytest.raises(UserError, match="no model is called 'egn'; expected one of"):
        models.build("egn", testing.TASK)
    with pytest.raises(UserError, match="egnn has no field 'width'; it has hidden_si"):
        models.build("egnn", testing.TASK, {"width": 8})
    with pytest.raises(UserError, match="egnn has no field 'task'"):
        models.build("egnn", testing.TASK, {"task": testing.TASK})


@pytest.mark.parametrize("value", [8.0, "8", None, True, [8]])
def test_build_refuses_a_wrong_type(value):
    with pytest.raises(UserError, match=r"egnn\.hidden_size expects int, found"):
        models.build("egnn", testing.TASK, {"hidden_size": value})


def test_build_takes_json_for_tuples_and_whole_numbers_for_floats():
    fields = models.check_fields(
        "egnn", {"node_inputs": ["charge", "|velocity|"], "coordinate_clip": 3}
    )
    assert fields == {"node_inputs": ("charge", "|velocity|"), "coordinate_clip": 3.0}
    assert isinstance(fields["coordinate_clip"], float)
    with pytest.raises(UserError, match=r"egnn\.node_inputs expects"):
        models.check_fields("egnn", {"node_inputs": [1]})
    with pytest.raises(UserError, match=r"egnn\.node_inputs expects"):
        models.check_fields("egnn", {"node_inputs": "charge"})


@pytest.mark.parametrize("name", sorted(models.REGISTRY))
def test_build_refuses_a_head_that_the_model_does_not_have(name):
    supported = models.model_class(name).supports
    for kind in {"node_vector", "node_scalar", "graph_scalar"} - supported:
        task = dataclasses.replace(testing.TASK, heads=(Head("energy", kind),))
        with pytest.raises(UserError, match=f"{name} has no head of kind {kind}"):
            models.build(name, task)


HAVE_CUTOFFS = [name for name in models.REGISTRY if "cutoff" in models.fields(name)]


@pytest.mark.parametrize("name", HAVE_CUTOFFS)
def test_the_cutoff_of_the_task_is_that_of_envelope_and_basis(name):
    """It does what the model's own one does, and another one does something else."""

    def outputs(own, of_task):
        task = dataclasses.replace(testing.MOLECULES, cutoff=of_task)
        fields = {} if own is None else {"cutoff": own}
        subject = testing.Subject(name, task=task, fields=fields)
        batch = subject.batch(testing.systems())
        values = subject.apply(subject.params, batch.graph)["energy"]
        return np.asarray(values)[: len(testing.SIZES), 0]

    found = outputs(None, 3.0)
    np.testing.assert_array_equal(found, outputs(3.0, None))
    np.testing.assert_array_equal(found, outputs(3.0, 3.0))
    for other in (None, 5.0):
        assert np.abs(found - outputs(None, other)).max() > 1e-4
    with pytest.raises(UserError, match=f"{name}.cutoff is 5 where .* graphs is 3"):
        outputs(5.0, 3.0)


def test_an_input_that_the_task_does_not_have_is_named():
    with pytest.raises(UserError, match="no node input 'mass'; it has charge, |veloc"):
        num_params("egnn", node_inputs=("mass",))
    still: TaskSpec = dataclasses.replace(testing.TASK, vectors=())
    model = models.build("radial_field", still)
    batch = testing.make_batch(testing.systems())
    with pytest.raises(UserError, match="no vector input 'velocity'; it has none"):
        model.init(jax.random.key(0), batch.graph, True)


@dataclasses.dataclass
class EveryType(base.Model):
    """A field of each type that a field may have."""

    number: int = 1
    real: float = 1.0
    flag: bool = False
    text: str = ""
    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    bound: float | None = None


@pytest.fixture
def registered(monkeypatch):
    registry = {**models.REGISTRY, "every_type": EveryType}
    monkeypatch.setattr(models, "REGISTRY", registry)
    return "every_type"


@pytest.mark.parametrize(
    "assignment, expected",
    [
        ("number=7", 7),
        ("number=-7", -7),
        ("real=7", 7.0),
        ("real=1e-3", 1e-3),
        ("flag=true", True),
        ("flag=False", False),
        ("text=a=b", "a=b"),
        ("text=", ""),
        ("names=charge,|velocity|", ("charge", "|velocity|")),
        ("names=", ()),
        ("sizes=8,8,4", (8, 8, 4)),
        ("bound=none", None),
        ("bound=2.5", 2.5),
    ],
)
def test_fields_are_parsed_by_their_types(registered, assignment, expected):
    (value,) = models.parse_fields(registered, [assignment]).values()
    assert value == expected and type(value) is type(expected)
    assert models.check_fields(registered, {assignment.split("=")[0]: value})


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("number=7.5", r"number expects int, found '7.5'"),
        ("number=", r"number expects int, found ''"),
        ("real=fast", r"real expects float, found 'fast'"),
        ("flag=1", r"flag expects bool, found '1'"),
        ("sizes=8,a", r"sizes expects int, found 'a'"),
        ("bound=a", r"bound expects float, found 'a'"),
        ("nubmer=7", r"every_type has no field 'nubmer'; it has number, real"),
        ("number", r"expected field=value, found 'number'"),
    ],
)
def test_malformed_assignments_are_refused(registered, assignment, message):
    with pytest.raises(UserError, match=message):
        models.parse_fields(registered, [assignment])


@pytest.mark.parametrize("lmax", [0, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_segnn_of_other_degrees_keeps_its_promises(lmax):
    fields = {
        "hidden_units": 3,
        "num_layers": 1,
        "lmax_hidden": lmax,
        "lmax_attributes": max(lmax, 1),
    }
    subject = testing.Subject("segnn", fields=fields)
    testing.assert_shapes(subject)
    testing.assert_symmetry(subject)


def test_segnn_refuses_degrees_without_vectors():
    with pytest.raises(UserError, match="lmax_attributes >= 1 .* found 1 and 0"):
        num_params("segnn", lmax_attributes=0)


MORE_CUES = dataclasses.replace(
    testing.TASK, vectors=(VectorInput("velocity"), VectorInput("force"))
)


def with_forces(members, matrix=testing.IDENTITY):
    """A batch whose particles have a velocity and a force."""
    batch = testing.make_batch(members, bucket=testing.BUCKET)
    nodes = batch.graph.nodes
    forces = np.random.default_rng(2).normal(size=nodes.positions.shape) @ matrix.T
    vectors = np.stack([nodes.vectors[:, 0], forces.astype(np.float32)], axis=1)
    graph = dataclasses.replace(batch.graph, nodes=nodes._replace(vectors=vectors))
    return dataclasses.replace(batch, graph=graph)


def test_segnn_with_relative_vectors_in_the_edge_attribute():
    """It changes the function, not the parameters, and stays equivariant."""
    inputs = ("|velocity|", "|force|")
    members, turn = testing.systems(), -testing.rotation()
    batch, found = with_forces(members), {}
    for edge_vectors in ((), ("velocity",), ("velocity", "force")):
        fields = {"node_inputs": inputs, "edge_vectors": edge_vectors}
        subject = testing.Subject("segnn", fields=fields, task=MORE_CUES)
        subject.params = testing.quick_params(subject.model, batch)
        found[edge_vectors] = subject.displacements(batch)
        moved = testing.moved(members, turn, testing.SHIFT)
        turned = subject.displacements(with_forces(moved, turn))
        expected = np.einsum("ij,nkj->nki", turn, found[edge_vectors])
        assert testing.relative_error(turned, expected) < 1e-4
    outputs = iter(found.values())
    first = next(outputs)
    for output in outputs:
        assert testing.relative_error(output, first) > 1e-2


def test_relative_velocities_enter_the_edge_attribute_of_segnn():
    """As harmonics of v_j - v_i; its scalar knows no direction and stays."""
    batch = with_forces(testing.systems())
    mask = np.asarray(graphs.edge_mask(batch.graph))

    def attributes(edge_vectors):
        def attribute(graph):
            model = segnn.SEGNN(MORE_CUES, edge_vectors=edge_vectors)
            return model._edge_inputs(graph)[0]

        return hk.transform(attribute).apply({}, None, batch.graph)

    plain, more = attributes(()), attributes(("velocity",))
    velocities = np.asarray(batch.graph.nodes.vectors[:, 0])
    senders, receivers = batch.graph.senders[mask], batch.graph.receivers[mask]
    differences = velocities[senders] - velocities[receivers]
    for irrep, value in plain.items():
        added = np.asarray(more[irrep] - value)[:, mask]
        harmonics = geometry.spherical_harmonics(differences, 1)[irrep.l]
        expected = np.zeros_like(added) if irrep.l == 0 else np.asarray(harmonics)
        np.testing.assert_allclose(added, expected, atol=1e-6)


@pytest.mark.parametrize("field", ["edge_vectors", "node_vectors"])
def test_a_vector_that_the_task_does_not_have_is_named(field):
    with pytest.raises(UserError, match="no vector input 'force'; it has velocity"):
        num_params("segnn", **{field: ("force",)})


def test_vectors_that_the_nodes_of_segnn_do_not_start_from_still_steer():
    """Their length is not read, their direction is."""
    fields = {"node_vectors": ("velocity",)}
    subject = testing.Subject("segnn", fields=fields, task=MORE_CUES)
    batch = with_forces(testing.systems())
    subject.params = testing.quick_params(subject.model, batch)
    expected = subject.displacements(batch)

    def changed(force_factors):
        vectors = batch.graph.nodes.vectors.copy()
        vectors[:, 1] *= force_factors
        nodes = batch.graph.nodes._replace(vectors=vectors)
        graph = dataclasses.replace(batch.graph, nodes=nodes)
        return subject.displacements(dataclasses.replace(batch, graph=graph))

    longer = changed(np.array([3.0, 3.0, 3.0]))
    assert testing.relative_error(longer, expected) < 1e-4
    turned = changed(np.array([-1.0, 1.0, -1.0]))
    assert testing.relative_error(turned, expected) > 1e-2


def test_linear_learns_one_time_per_vector():
    """Its fit is x + a v + b F where the force is an input."""
    subject = testing.Subject("linear", task=MORE_CUES)
    batch = with_forces(testing.systems())
    subject.params = {"linear": {"times_position": np.array([[0.5, -2.0]], "f4")}}
    vectors = np.asarray(batch.graph.nodes.vectors)
    mask = np.asarray(graphs.node_mask(batch.graph))
    expected = (0.5 * vectors[:, 0] - 2 * vectors[:, 1])[mask]
    np.testing.assert_allclose(
        subject.displacements(batch)[:, 0], expected, rtol=1e-5, atol=1e-6
    )
