"""The models, by name.

A new model is one file here and one line in `REGISTRY`; `--model=NAME`, the contract
tests, the benchmark and the report follow.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk

from demetar.errors import UserError
from demetar.models import (
    base,
    cormorant,
    deep_set,
    demetar,
    egnn,
    equiformer,
    gnn,
    lieconv,
    linear,
    nequip,
    newton,
    nmp,
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
from demetar.types import TaskSpec

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
    "schnet": schnet.Schnet,
    "nmp": nmp.NMP,
    "cormorant": cormorant.Cormorant,
    "lieconv": lieconv.Lieconv,
}


def with_head(kind: str) -> list[str]:
    """The models that support heads of a kind, in the order of the registry."""
    return [name for name, cls in REGISTRY.items() if kind in cls.supports]


def model_class(name: str) -> type[base.Model]:
    """The class of a registered model.

    Raises:
      UserError: no model has that name.
    """
    if name not in REGISTRY:
        raise UserError(
            f"no model is called {name!r}; expected one of {', '.join(REGISTRY)}"
        )
    return REGISTRY[name]


def fields(name: str) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a model that can be set, by name."""
    own = dataclasses.fields(model_class(name))
    return {field.name: field for field in own if field.name != "task"}


def build(
    name: str, task: TaskSpec, overrides: Mapping[str, Any] | None = None
) -> hk.Transformed:
    """A model as pure functions.

    Args:
      name: a key of `REGISTRY`.
      task: inputs and heads.
      overrides: fields of the model other than their defaults.

    Returns:
      `init(key, graph, is_training)` and `apply(params, key, graph, is_training)`;
      is_training is static. Outputs are {head: [N, K, 3] | [N, T] | [G, T]}.

    Raises:
      UserError: unknown model or field, a value of the wrong type, a cutoff other than
        that of the task, or a head that the model does not support.
    """
    cls = model_class(name)
    checked = check_fields(name, overrides or {})
    if "cutoff" in fields(name):
        own = checked.get("cutoff")
        checked["cutoff"] = base.shared_cutoff(task, own, name)
    checked |= _input_fields(name, task, checked)
    for head in task.heads:
        if head.kind not in cls.supports:
            raise UserError(
                f"{name} has no head of kind {head.kind} (asked for {head.name!r}); "
                f"it supports {', '.join(sorted(cls.supports))}"
            )
    return hk.transform(
        lambda graph, is_training: cls(task, **checked)(graph, is_training)
    )


# Fields that name inputs of the task.
_INPUTS = ("node_inputs", "species_inputs")


def _input_fields(
    name: str, task: TaskSpec, given: Mapping[str, Any]
) -> dict[str, tuple[str, ...]]:
    """The fields that name inputs: those that are given, or defaults that fit the task.

    Raises:
      UserError: one that is given names an input that the task does not have.
    """
    found = {}
    known = inputs.names_of(task)
    for field in fields(name).keys() & {*_INPUTS}:
        if field not in given:
            default: Any = fields(name)[field].default
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
    booleans = {"true": True, "false": False}
    try:
        value = booleans[text.lower()] if expected is bool else expected(text)
    except (KeyError, ValueError):
        raise _wrong_type(name, field, expected, text) from None
    return value
