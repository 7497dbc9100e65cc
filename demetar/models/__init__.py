"""The models, by name.

A new model is one file here and one line in `REGISTRY`; `--model=NAME`, the contract
tests, the benchmark and the report follow. A class outside of the project is named
'my_package.my_module:MyModel', wherever a name is asked for; see `own`.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk
import jax.numpy as jnp

from demetar.errors import UserError
from demetar.models import (
    base,
    cormorant,
    deep_set,
    demetar,
    egnn,
    equiformer,
    gnn,
    gradients,
    graphormer,
    graphormer_3d,
    lieconv,
    linear,
    nequip,
    newton,
    nmp,
    own,
    radial_field,
    schnet,
    se3_transformer,
    segnn,
    set_transformer,
    simple_network,
    tfn,
    torchmd_et,
)
from demetar.nn import inputs
from demetar.types import Array, Bucket, Graph, TaskSpec

REGISTRY: Mapping[str, type[base.Model]] = {
    "linear": linear.Linear,
    "linear_map": linear.LinearMap,
    "gnn": gnn.GNN,
    "egnn": egnn.EGNN,
    "segnn": segnn.SEGNN,
    "tfn": tfn.TFN,
    "se3_transformer": se3_transformer.SE3Transformer,
    "torchmd_et": torchmd_et.TorchmdEt,
    "nequip": nequip.Nequip,
    "simple_network": simple_network.SimpleNetwork,
    "equiformer": equiformer.Equiformer,
    "radial_field": radial_field.RadialField,
    "deep_set": deep_set.DeepSet,
    "set_transformer": set_transformer.SetTransformer,
    "newton": newton.Newton,
    "newton_octahedral": newton.NewtonOctahedral,
    "demetar": demetar.Demetar,
    "demetar_free": demetar.DemetarFree,
    "graphormer": graphormer.Graphormer,
    "graphormer_3d": graphormer_3d.Graphormer3d,
    "graphormer_3d_untied": graphormer_3d.Graphormer3dUntied,
    "schnet": schnet.Schnet,
    "nmp": nmp.NMP,
    "cormorant": cormorant.Cormorant,
    "lieconv": lieconv.Lieconv,
}


_WRITABLE = (int, float, bool, str)  # types of fields, alone, in tuples or optional


def with_head(kind: str) -> list[str]:
    """The models that support heads of a kind, in the order of the registry."""
    return [name for name, cls in REGISTRY.items() if kind in cls.supports]


def has_forces(name: str) -> bool:
    """Whether a model has an energy that depends on the positions."""
    cls = model_class(name)
    return "graph_scalar" in cls.supports and "position" not in cls.ignores


def check_name(name: str) -> None:
    """Refuse a name that no model can have. Nothing is imported.

    Raises:
      UserError: it is neither in the registry nor of the form 'module:Class'.
    """
    if own.is_own(name):
        own.check_name(name)
    elif name not in REGISTRY:
        raise UserError(
            f"no model is called {name!r}; expected one of {', '.join(REGISTRY)}, or "
            f"your own as {own.FORM}"
        )


def model_class(name: str) -> type[base.Model]:
    """The class of a registered model, or of one's own as 'module:Class'.

    Raises:
      UserError: no model has that name, or one's own cannot be imported or used.
    """
    check_name(name)
    return own.find(name) if own.is_own(name) else REGISTRY[name]


def fields(name: str) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a model that can be set, by name."""
    known = dataclasses.fields(model_class(name))
    return {field.name: field for field in known if field.name != "task"}


def input_defaults(name: str) -> dict[str, tuple[str, ...]]:
    """The fields that name the scalar inputs of a model, with their defaults.

    On other data they are given the names of those.
    """
    defaults: dict[str, Any] = {
        field.name: field.default
        for field in fields(name).values()
        if field.name in ("node_inputs", "species_inputs")
    }
    return {
        field: default
        for field, default in defaults.items()
        if isinstance(default, tuple)
    }


def build(
    name: str, task: TaskSpec, overrides: Mapping[str, Any] | None = None
) -> hk.Transformed:
    """A model as pure functions.

    Args:
      name: a key of `REGISTRY`, or 'module:Class'.
      task: inputs and heads.
      overrides: fields of the model other than their defaults.

    Returns:
      `init(key, graph, is_training)` and `apply(params, key, graph, is_training)`;
      is_training is static. Outputs are {head: [N, K, 3] | [N, T] | [G, T]}. Heads that
      are gradients of others need nothing of the model (`gradients.with_gradients`).

    Raises:
      UserError: unknown model or field, a value of the wrong type, a cutoff other than
        that of the task, or a head that the model does not support.
    """
    cls = model_class(name)
    checked = check_fields(name, overrides or {})
    if "cutoff" in fields(name):
        cutoff = base.shared_cutoff(task, checked.get("cutoff"), name)
        if cutoff is not None:
            checked["cutoff"] = cutoff
    checked |= _input_fields(name, task, checked)
    missing = [field for field in _required(name) if field not in checked]
    if missing:
        raise UserError(
            f"{name}.{missing[0]} has no default; give one, or --set {missing[0]}="
        )
    inner = gradients.without_gradients(task)
    for head in inner.heads:
        if head.kind not in cls.supports:
            raise UserError(
                f"{name} has no head of kind {head.kind} (asked for {head.name!r}); "
                f"it supports {', '.join(sorted(cls.supports))}"
            )

    def forward(graph: Graph, is_training: bool) -> dict[str, Array]:
        outputs = cls(inner, **checked)(graph, is_training)
        _check_outputs(name, inner, graph.bucket, outputs)
        return base.without_means(inner, outputs, graph)

    return gradients.with_gradients(hk.transform(forward), task)


def _required(name: str) -> list[str]:
    """The fields that have no default."""
    return [
        field.name
        for field in fields(name).values()
        if field.default is field.default_factory is dataclasses.MISSING
        and field.name in inspect.signature(model_class(name)).parameters
    ]


def _check_outputs(name: str, task: TaskSpec, bucket: Bucket, outputs: Any) -> None:
    """Refuse what cannot be compared with targets, while the model is traced.

    NumPy's rules would make [N, 3] and [N, 1, 3] to [N, N, 3] without a word.

    Raises:
      UserError: a head is missing or unknown, or its shape is another.
    """
    names = {head.name for head in task.heads}
    if not isinstance(outputs, Mapping) or {*outputs} != names:
        found = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs)
        raise UserError(
            f"{name} returns {found}, expected a dictionary with an array for each of "
            f"the heads {sorted(names)}"
        )
    letters = {"node_vector": "[N, K, 3]", "node_scalar": "[N, T]"}
    for head in task.heads:
        expected = {
            "node_vector": (bucket.max_nodes, head.size, 3),
            "node_scalar": (bucket.max_nodes, head.size),
            "graph_scalar": (bucket.num_graphs, head.size),
        }[head.kind]
        shape = jnp.shape(outputs[head.name])
        if shape != expected:
            raise UserError(
                f"{name} returns {list(shape)} for the {head.kind} head {head.name!r}, "
                f"expected {list(expected)}: {letters.get(head.kind, '[G, T]')}"
            )


def _input_fields(
    name: str, task: TaskSpec, given: Mapping[str, Any]
) -> dict[str, tuple[str, ...]]:
    """The fields that name inputs: those that are given, or defaults that fit the task.

    Raises:
      UserError: one that is given names an input that the task does not have.
    """
    found = {}
    known = inputs.names_of(task)
    for field, default in input_defaults(name).items():
        if field not in given:
            found[field] = inputs.fitted(task, default)
            continue
        unknown = [one for one in given[field] if one not in (*known, inputs.ALL)]
        if unknown:
            raise UserError(
                f"the task {task.name!r} has no node input {unknown[0]!r}, which "
                f"{name}.{field} names; set {field} to some of "
                f"{', '.join(known) or 'none'}, or to {inputs.ALL}"
            )
    return found


def check_fields(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides with lists as tuples, each checked against the model's field.

    Raises:
      UserError: unknown field or a value of the wrong type.
    """
    return {
        field: _check_value(name, field, _field_type(name, field), value)
        for field, value in overrides.items()
    }


def parse_fields(name: str, assignments: Sequence[str]) -> dict[str, Any]:
    """Typed values of assignments 'field=value' as a person writes them.

    Tuples are written with commas, None as 'none'.

    Raises:
      UserError: malformed assignment, unknown field, or a value of the wrong type.
    """
    values = {}
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"expected field=value, found {assignment!r}")
        values[field] = _parse_value(name, field, _field_type(name, field), text)
    return values


def _field_type(name: str, field: str) -> Any:
    known = fields(name)
    if field not in known:
        raise UserError(
            f"{name} has no field {field!r}; it has {', '.join(known) or 'none'}"
        )
    return typing.get_type_hints(model_class(name))[field]


def _type_name(expected: Any) -> str:
    return getattr(expected, "__name__", str(expected)).replace("typing.", "")


def _wrong_type(name: str, field: str, expected: Any, value: Any) -> UserError:
    described = str(expected) if typing.get_args(expected) else _type_name(expected)
    return UserError(f"{name}.{field} expects {described}, found {value!r}")


def _check_value(name: str, field: str, expected: Any, value: Any) -> Any:
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_check_value(name, field, args[0], item) for item in value)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        inner = next(arg for arg in args if arg is not type(None))
        return _check_value(name, field, inner, value)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and type(value) is expected:
        return value
    raise _wrong_type(name, field, expected, value)


def _parse_value(name: str, field: str, expected: Any, text: str) -> Any:
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if origin is tuple:
        items = [item for item in text.split(",") if item]
        return tuple(_parse_value(name, field, args[0], item) for item in items)
    if origin in (types.UnionType, typing.Union):
        if text.lower() == "none" and type(None) in args:
            return None
        inner = next(arg for arg in args if arg is not type(None))
        return _parse_value(name, field, inner, text)
    if expected not in _WRITABLE:
        raise UserError(
            f"{name}.{field} is of type {_type_name(expected)}, which cannot be "
            "written; expected int, float, bool, str, a tuple of one, or None beside it"
        )
    booleans = {"true": True, "false": False}
    try:
        value = booleans[text.lower()] if expected is bool else expected(text)
    except (KeyError, ValueError):
        raise _wrong_type(name, field, expected, text) from None
    return value
