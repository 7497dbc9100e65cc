"""The registry: parameter counts, refusals, fields as a person writes them."""

import dataclasses

import jax
import pytest

from demetar import models
from demetar.errors import UserError
from demetar.models import base
from demetar.types import Head, TaskSpec
from tests import contract


def num_params(name, task=contract.TASK, **fields):
    """Parameters on N-body or another task, by shapes alone."""
    model = models.build(name, task, fields)
    batch = contract.make_batch(contract.systems(), task=task)
    params = jax.eval_shape(
        lambda key: model.init(key, batch.graph, batch.bucket, True), jax.random.key(0)
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
        models.build("egn", contract.TASK)
    with pytest.raises(UserError, match="egnn has no field 'width'; it has hidden_si"):
        models.build("egnn", contract.TASK, {"width": 8})
    with pytest.raises(UserError, match="egnn has no field 'task'"):
        models.build("egnn", contract.TASK, {"task": contract.TASK})


@pytest.mark.parametrize("value", [8.0, "8", None, True, [8]])
def test_build_refuses_a_wrong_type(value):
    with pytest.raises(UserError, match=r"egnn\.hidden_size expects int, found"):
        models.build("egnn", contract.TASK, {"hidden_size": value})


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
        task = dataclasses.replace(contract.TASK, heads=(Head("energy", kind),))
        with pytest.raises(UserError, match=f"{name} has no head of kind {kind}"):
            models.build(name, task)


def test_an_input_that_the_task_does_not_have_is_named():
    with pytest.raises(UserError, match="no node input 'mass'; it has charge, |veloc"):
        num_params("egnn", node_inputs=("mass",))
    still: TaskSpec = dataclasses.replace(contract.TASK, vectors=())
    model = models.build("egnn", still, {"node_inputs": ("charge",)})
    batch = contract.make_batch(contract.systems())
    with pytest.raises(UserError, match="no vector input 'velocity'; it has none"):
        model.init(jax.random.key(0), batch.graph, batch.bucket, True)


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
    subject = contract.Subject("segnn", fields=fields)
    contract.assert_shapes(subject)
    contract.assert_symmetry(subject)


def test_segnn_refuses_degrees_without_vectors():
    with pytest.raises(UserError, match="lmax_attributes >= 1 .* found 1 and 0"):
        num_params("segnn", lmax_attributes=0)
