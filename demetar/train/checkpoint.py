"""Pytrees and models on disk: one .npz file of arrays and JSON, never a pickle.

Every file is written beside its place and then renamed, so that a reader sees the
earlier file or the whole new one, also when the writer is killed or the disk is full.
The same content gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import pathlib
import typing
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import archives, files, models, places
from demetar.errors import UserError
from demetar.types import Params, TaskSpec

PathLike = str | os.PathLike[str]

# Leaf names come from `jax.tree_util.keystr` and so open with a bracket or a dot: this
# name can never be one of them.
_HEADER = "header"

ID_DIGITS = 12  # of a run's id that are shown


class _Content(NamedTuple):
    """What a file holds.

    Attributes:
      arrays: {leaf name: array}; a typed random key as its data.
      dtypes: {leaf name: dtype} of the leaves that NumPy has no file format for.
      keys: {leaf name: implementation} of the leaves that are typed random keys.
      metadata: the caller's JSON data.
    """

    arrays: dict[str, np.ndarray]
    dtypes: dict[str, str]
    keys: dict[str, str]
    metadata: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ModelCheckpoint:
    """A trained model with all that is needed to use it.

    Attributes:
      model: a key of the registry of models, or 'module:Class' of one's own.
      fields: fields of the model other than their defaults.
      task: inputs and heads.
      params: {module: {name: [R, ...]}}, one replica per seed.
      metadata: anything else that JSON can hold: epoch, losses, fingerprint.
      source: SHA-256 of the source of one's own model; '' of a registered one.
    """

    model: str
    fields: dict[str, Any]
    task: TaskSpec
    params: Params
    metadata: dict[str, Any]
    source: str = ""

    def build(self, fields: Mapping[str, Any] | None = None) -> hk.Transformed:
        """The model that `params` belong to, as `models.build` gives it.

        A warning says if the source of one's own model has changed.

        Args:
          fields: other values of some fields.

        Raises:
          UserError: one's own model cannot be imported here, or the model cannot be
            built with the fields.
        """
        model = models.build(self.model, self.task, {**self.fields, **(fields or {})})
        if self.source and self.source != models.own.source_hash(self.model):
            warnings.warn(
                f"the source of {self.model} has changed since this checkpoint was "
                "written, and its outputs may have too; put it back, or train again",
                stacklevel=2,
            )
        return model


def save(path: PathLike, arrays: Any, metadata: Mapping[str, Any]) -> None:
    """Writes a pytree of arrays with metadata, atomically.

    Args:
      path: file to write; its folder must exist.
      arrays: pytree whose leaves are arrays, numbers or typed random keys.
      metadata: JSON data; infinities and NaN are kept.

    Raises:
      UserError: the file cannot be written. An earlier file is then as it was.
    """
    content = _Content({}, {}, {}, dict(metadata))
    for name, leaf in _named_leaves(arrays).items():
        array, implementation = _plain_array(leaf)
        if array.dtype.hasobject:
            raise TypeError(f"leaf {name} is no array of numbers: {leaf!r}")
        if implementation:
            content.keys[name] = implementation
        if array.dtype.kind == "V":  # bfloat16 and its like, which .npy would forget
            content.dtypes[name] = array.dtype.name
            array = array.view(f"V{array.dtype.itemsize}")
        content.arrays[name] = array
    write_bytes(path, _encode(content))


def read(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays by leaf name, and the metadata, of a file that `save` wrote.

    Raises:
      UserError: the file is missing, truncated or altered.
    """
    content = _read(path)
    return content.arrays, content.metadata


def restore(
    path: PathLike, template: Any, run_id: str = ""
) -> tuple[Any, dict[str, Any]]:
    """The pytree that `save` wrote, and its metadata.

    Args:
      path: file to read.
      template: pytree of the same structure; of its leaves (arrays, numbers, typed
        random keys or `jax.ShapeDtypeStruct`) only shapes and dtypes matter.
      run_id: of `check_run`.

    Returns:
      The tree, whose leaves are NumPy arrays where the template's are NumPy arrays or
      numbers and JAX arrays elsewhere, and the metadata.

    Raises:
      UserError: the file is missing, truncated or altered, or of another run, or a
        leaf is missing, of another shape or dtype, or unknown to the template.
    """
    content = _read(path)
    if run_id:
        _check_run(path, content.metadata, run_id)
    expected = _named_leaves(template)
    unknown = [name for name in content.arrays if name not in expected]
    leaves = [_restore_leaf(path, content, *item) for item in expected.items()]
    if unknown:
        raise _mismatch(path, unknown[0], "no such leaf", "one")
    structure = jax.tree_util.tree_structure(template)
    return jax.tree_util.tree_unflatten(structure, leaves), content.metadata


def check_run(path: PathLike, run_id: str) -> None:
    """Make sure that a file which `save` or `save_model` wrote is of this run.

    Args:
      run_id: of the run; '' if any will do.

    Raises:
      UserError: it carries another id or none, or cannot be read.
    """
    if not run_id:
        return
    _check_run(path, read(path)[1], run_id)


def _check_run(path: PathLike, metadata: Mapping[str, Any], run_id: str) -> None:
    inner = metadata.get("metadata")
    found = metadata.get("run") or (isinstance(inner, dict) and inner.get("run_id"))
    if found != run_id:
        raise foreign(path, found, run_id)


def foreign(path: PathLike, found: Any, expected: str) -> UserError:
    """The error of a file that carries the id of another run."""
    shown = f"run {str(found)[:ID_DIGITS]}" if found else "no run"
    return UserError(
        f"{os.fspath(path)} belongs to {shown}, expected run {expected[:ID_DIGITS]}; "
        "put back the file of this run, or choose another --workdir"
    )


def save_model(path: PathLike, checkpoint: ModelCheckpoint) -> None:
    """Writes a trained model, atomically.

    Raises:
      UserError: the file cannot be written. An earlier file is then as it was.
    """
    # The names of a leaf are listed because they cannot be parsed back from its path.
    params = {module: dict(own) for module, own in checkpoint.params.items()}
    leaves = sorted([module, name] for module, own in params.items() for name in own)
    metadata = {
        "model": checkpoint.model,
        "fields": checkpoint.fields,
        "task": checkpoint.task.to_json(),
        "leaves": leaves,
        "metadata": checkpoint.metadata,
    }
    if checkpoint.source:
        metadata["source"] = checkpoint.source
    save(path, params, metadata)


def load_model(path: PathLike) -> ModelCheckpoint:
    """The trained model that `save_model` wrote.

    Raises:
      UserError: the file is missing, truncated or altered, or holds no model.
    """
    arrays, metadata = read(path)
    try:
        task = TaskSpec.from_json(metadata["task"])
        params: dict[str, dict[str, jax.Array]] = {}
        for module, name in metadata["leaves"]:
            keys = (jax.tree_util.DictKey(module), jax.tree_util.DictKey(name))
            leaf = jnp.array(arrays[jax.tree_util.keystr(keys)])
            params.setdefault(module, {})[name] = leaf
        return ModelCheckpoint(
            model=metadata["model"],
            fields=metadata["fields"],
            task=task,
            params=params,
            metadata=metadata["metadata"],
            source=metadata.get("source", ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: expected a trained model, found another file ({error!r}); "
            "give a model checkpoint that this release wrote"
        ) from error


def write_json(path: PathLike, data: Any) -> None:
    """Writes JSON for people, atomically: indented, keys sorted, NaN as null.

    Raises:
      UserError: the file cannot be written. An earlier file is then as it was.
    """
    text = json.dumps(to_json(data), indent=2, sort_keys=True, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def to_json(data: Any) -> Any:
    """Strict JSON data: arrays as lists, paths as text, non-finite numbers as None."""
    if isinstance(data, Mapping):
        return {str(key): to_json(value) for key, value in data.items()}
    if isinstance(data, (np.ndarray, np.generic, jax.Array)):
        return to_json(data.tolist())
    if isinstance(data, (list, tuple)):
        return [to_json(value) for value in data]
    if isinstance(data, os.PathLike):
        return os.fspath(data)
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def write_bytes(path: PathLike, content: bytes) -> None:
    """Writes a whole file, atomically.

    Raises:
      UserError: the file cannot be written. An earlier file is then as it was.
    """
    try:
        with files.replacing(pathlib.Path(path)) as file:
            file.write(content)
    except OSError as error:
        raise places.unwritten(path, error) from error


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(keys): leaf for keys, leaf in leaves}


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _plain_array(leaf: Any) -> tuple[np.ndarray, str]:
    """A leaf as a NumPy array, and the implementation of a typed key or ''."""
    if _is_key(leaf):
        return np.asarray(jax.random.key_data(leaf)), str(jax.random.key_impl(leaf))
    return np.asarray(leaf, order="C"), ""


def _digest(content: _Content) -> str:
    """SHA-256 over everything that a file holds."""
    digest = hashlib.sha256(_json_bytes(content._replace(arrays={})._asdict()))
    for name, array in sorted(content.arrays.items()):
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _json_bytes(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True).encode()


def _encode(content: _Content) -> bytes:
    header = content._replace(arrays={})._asdict() | {"sha256": _digest(content)}
    arrays = dict(content.arrays)
    arrays[_HEADER] = np.frombuffer(_json_bytes(header), np.uint8)
    # In memory first: np.savez on a full disk fails a second time while it closes.
    buffer = io.BytesIO()
    np.savez(buffer, **typing.cast(dict[str, Any], arrays))
    return buffer.getvalue()


def _decode(encoded: bytes, path: PathLike) -> tuple[_Content, str]:
    """The content of a file and the digest that it should have."""
    arrays = archives.parse_npz(encoded, path)
    text = arrays.pop(_HEADER).tobytes()
    header = files.parse_json(text, path, non_finite="keep")
    digest = header.pop("sha256")
    return _Content(**(header | {"arrays": arrays})), digest


def _read(path: PathLike) -> _Content:
    try:
        encoded = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {os.fspath(path)}: {error.strerror or error}; "
            "give the path of a file that a run has written"
        ) from error
    try:
        content, digest = _decode(encoded, path)
        if digest != _digest(content):
            raise ValueError("its SHA-256 is not the one it was written with")
        for name, dtype in content.dtypes.items():
            content.arrays[name] = content.arrays[name].view(np.dtype(dtype))
        return content
    except Exception as error:
        # A header may hold anything if the file is of another program.
        raise _damaged(path, error) from error


def _damaged(path: PathLike, error: Exception) -> UserError:
    reason = files.one_line(error)
    return UserError(
        f"{os.fspath(path)} is truncated, altered or no checkpoint ({reason}); "
        "restore it from a copy, or remove it and train again"
    )


def _describe(leaf: Any) -> str:
    """Dtype and shape of a leaf, as errors name them."""
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return f"{leaf.dtype}{list(leaf.shape)}"


def _mismatch(path: PathLike, name: str, expected: str, found: str) -> UserError:
    return UserError(
        f"{os.fspath(path)} does not fit, first at {name or 'its only leaf'}: expected "
        f"{expected}, found {found}; use the settings of the run that wrote it"
    )


def _restore_leaf(path: PathLike, content: _Content, name: str, expected: Any) -> Any:
    """One leaf as the template's leaf `expected` describes it."""
    if name not in content.arrays:
        raise _mismatch(path, name, _describe(expected), "nothing")
    found: Any = content.arrays[name]
    if name in content.keys:
        found = jax.random.wrap_key_data(jnp.array(found), impl=content.keys[name])
    if _describe(found) != _describe(expected):
        raise _mismatch(path, name, _describe(expected), _describe(found))
    if _is_key(found) or not isinstance(expected, (jax.Array, jax.ShapeDtypeStruct)):
        return found
    # A copy: a donated buffer must not be the memory of a NumPy array.
    return jnp.array(found)
