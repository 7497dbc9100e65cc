"""Models of one's own: classes that are named 'module:Class' and imported.

`my_package.my_module:MyModel` is the class `MyModel` of that module. The module is
looked up in the current folder first, and then where Python finds everything else.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
import traceback
import typing
from collections.abc import Iterator
from typing import Any, TypeGuard

from demetar.errors import UserError
from demetar.models import base
from demetar.types import HEAD_KINDS

FORM = "my_package.my_module:MyModel"
_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")
_PROJECT = ("demetar", "experiments", "tools")
_HERE = __file__.rpartition("/models/")[0]  # of this package
_INSTALLED = ("site-packages", "dist-packages")
_MOST_SHOWN = 200  # characters of another error
_EXPECTED = (
    "a subclass of demetar.models.base.Model with `symmetry`, `supports` and `__call__`"
)


def is_own(name: str) -> bool:
    """Whether a name is that of a class to import, not one of the registry."""
    return ":" in name


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a class in a module, without importing it.

    Raises:
      UserError: as above.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"expected a model of your own as {FORM}, found {name!r}; name its module "
            "with dots, without folders and .py"
        )
    module, _, cls = name.partition(":")
    if module.endswith(".py"):
        raise UserError(
            f"{name!r} names a file, expected a module; give {module[:-3]}:{cls}"
        )


def find(name: str) -> type[base.Model]:
    """The class of a name 'module:Class'; its module is imported.

    The current folder is put on the path, as `python -m` does.

    Raises:
      UserError: the module cannot be found or imported, or has no such class, or the
        class is no model that can be built.
    """
    check_name(name)
    module_name, _, attribute = name.partition(":")
    module = _import(module_name, name)
    if not hasattr(module, attribute):
        known = [
            key
            for key, value in vars(module).items()
            if _is_model(value) and value.__module__ == module_name
        ]
        raise UserError(
            f"{_file(module)} has no {attribute!r}, expected the class of --model="
            f"{name}; its models: {', '.join(known) or 'none'}"
        )
    found: Any = getattr(module, attribute)
    if not _is_model(found):
        is_class = isinstance(found, type)
        what = "another class" if is_class else f"of type {type(found).__name__}"
        raise UserError(f"{name} is {what}, expected {_EXPECTED}")
    _check_class(name, found)
    return found


def source_hash(name: str) -> str:
    """SHA-256 of the source of a model: of its module and what that imports.

    Followed are the modules beside it and those of its package, not what is installed
    otherwise.
    """
    module = name.partition(":")[0]
    _add_current_folder()
    texts: dict[str, str] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        spec = _spec(current)
        if current in texts or spec is None or not _belongs(spec, module):
            continue
        texts[current] = _source(spec)
        waiting += [current.rpartition(".")[0], *_imports(spec, texts[current])]
    digest = hashlib.sha256()
    for current, text in sorted(texts.items()):
        digest.update(f"{current}\0{text}\0".encode())
    return digest.hexdigest()


def describe(error: BaseException, name: str) -> str:
    """An error of a model in one line, with the line of its own source if it has one.

    Args:
      error: that its module or its class raised.
      name: of the model; a registered one is described without a line.
    """
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    text = " ".join(said.split())[:_MOST_SHOWN]
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = _place(error, name.partition(":")[0]) if is_own(name) else ""
    return f"{told} ({place})" if place else told


def _add_current_folder() -> None:
    if "" not in sys.path and not sys.flags.safe_path:
        sys.path.insert(0, "")


def _import(module: str, name: str) -> Any:
    _add_current_folder()
    if module not in sys.modules:
        importlib.invalidate_caches()  # the file may have been written just now
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        if missing and f"{module}.".startswith(f"{missing}."):
            raise UserError(
                f"no module {module!r}, expected that of the model {name}; go to the "
                "folder that holds it, or name that folder in PYTHONPATH"
            ) from None
        raise UserError(
            f"the module of the model {name} cannot be imported: "
            f"{describe(error, name)}; mend it and try again"
        ) from None


def _is_model(found: Any) -> TypeGuard[type[base.Model]]:
    return isinstance(found, type) and issubclass(found, base.Model)


def _file(module: Any) -> str:
    path = getattr(module, "__file__", None) or module.__name__
    return str(path).rpartition("/")[2]


def _check_class(name: str, cls: type[base.Model]) -> None:
    """Refuse a class that says too little, or something that nothing knows."""
    symmetry = getattr(cls, "symmetry", None)
    if symmetry not in base.SYMMETRIES:
        raise UserError(
            f"{name} states the symmetry {symmetry!r}, expected one of "
            f"{', '.join(map(repr, base.SYMMETRIES))}; write it in the class, as in "
            "symmetry = 'E(3)'"
        )
    supports = getattr(cls, "supports", None)
    is_set = isinstance(supports, (set, frozenset))
    if not is_set or not supports or not supports <= {*HEAD_KINDS}:
        raise UserError(
            f"{name} states that it supports {supports!r}, expected a set of "
            f"{', '.join(HEAD_KINDS)}; write it in the class, as in "
            "supports = frozenset({'node_vector'})"
        )
    if cls.__call__ is base.Model.__call__:
        raise UserError(f"{name} has no __call__, expected {_EXPECTED}")
    _check_fields(name, cls)


def _check_fields(name: str, cls: type[base.Model]) -> None:
    known = {field.name for field in dataclasses.fields(cls)}
    for field, annotation in inspect.get_annotations(cls).items():
        if field not in known and "ClassVar" not in str(annotation):
            raise UserError(
                f"{name} is not a dataclass, so its field {field!r} is not seen; write "
                "@dataclasses.dataclass above the class"
            )
    try:
        typing.get_type_hints(cls)
    except Exception as error:
        raise UserError(
            f"the types of the fields of {name} cannot be read ({error}); import them "
            "at the top of its module"
        ) from None


# --- The source ---------------------------------------------------------------------


def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    """Where a module is found; None if it is not, or if that would be an error."""
    try:
        return importlib.util.find_spec(module) if module else None
    except (Exception, SystemExit):
        return None


def _root(module: str) -> str:
    """The folder that holds a top-level module or package."""
    spec = _spec(module.partition(".")[0])
    if spec is None:
        return ""
    places = list(spec.submodule_search_locations or ())
    return str(places[0] if places else spec.origin or "").rpartition("/")[0]


def _belongs(spec: importlib.machinery.ModuleSpec, module: str) -> bool:
    """Whether a module is of the same package as another, or lies beside it."""
    top, own = spec.name.partition(".")[0], module.partition(".")[0]
    if top == own:
        return True
    if top in _PROJECT or top in sys.stdlib_module_names:
        return False
    return _lies_in(str(spec.origin or ""), _root(module))


def _lies_in(path: str, root: str) -> bool:
    installed = any(folder in path for folder in _INSTALLED)
    return bool(root) and path.startswith(f"{root}/") and not installed


def _source(spec: importlib.machinery.ModuleSpec) -> str:
    read = getattr(spec.loader, "get_source", None)
    return (read(spec.name) if read else None) or ""


def _imports(spec: importlib.machinery.ModuleSpec, source: str) -> Iterator[str]:
    """The modules that a source may import, with those that are none."""
    is_package = spec.submodule_search_locations is not None
    package = spec.name if is_package else spec.parent
    try:
        tree = ast.parse(source)
    except SyntaxError:  # of a module that is imported only if it can be
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            try:
                origin = importlib.util.resolve_name(origin, package)
            except ImportError:  # from beyond the package
                continue
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def _place(error: BaseException, module: str) -> str:
    """File and line of an error, the last ones in the model's own source."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename.rpartition('/')[2]}, line {error.lineno}"
    root = _root(module)
    package = f"{root}/{module.partition('.')[0]}/"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_HERE)
    ]
    own = [
        frame
        for frame in frames
        if _lies_in(frame.filename, root) or frame.filename.startswith(package)
    ]
    if not own:
        return ""
    return f"{own[-1].filename.rpartition('/')[2]}, line {own[-1].lineno}"
