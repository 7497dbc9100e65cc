"""Equivariant networks on point clouds with physics in them, in JAX and Haiku.

    import demetar

    model = demetar.load("runs/nbody_small/segnn")
    model(positions=x, velocities=v, charges=q)["position"]

The names in `__all__` are the public face; each is imported on first use. Importing the
package stops with one line without jax, and under its releases in `FAULTY_JAX`.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demetar.committees import committee
    from demetar.data.batch import make_batch
    from demetar.errors import UserError
    from demetar.models import REGISTRY
    from demetar.net import Net, build
    from demetar.potential import calculator
    from demetar.predict import Predictor, load
    from demetar.symmetry import check_symmetry
    from demetar.types import Batch, Graph, Head, TaskSpec, VectorInput

__all__ = [
    "REGISTRY",
    "Batch",
    "Graph",
    "Head",
    "Net",
    "Predictor",
    "TaskSpec",
    "UserError",
    "VectorInput",
    "build",
    "calculator",
    "check_symmetry",
    "committee",
    "load",
    "make_batch",
]

__version__ = "0.2.0"

# Where each name of the public face is.
_HOMES = {
    "demetar.committees": ("committee",),
    "demetar.data.batch": ("make_batch",),
    "demetar.errors": ("UserError",),
    "demetar.models": ("REGISTRY",),
    "demetar.net": ("Net", "build"),
    "demetar.potential": ("calculator",),
    "demetar.predict": ("Predictor", "load"),
    "demetar.symmetry": ("check_symmetry",),
    "demetar.types": ("Batch", "Graph", "Head", "TaskSpec", "VectorInput"),
}

# Releases that give wrong numbers or that no run can be timed on. setup.cfg excludes
# them too; an environment that was put together by hand still gets here.
FAULTY_JAX = {
    "0.10.2": "computes wrong numbers on CPU (jax issue 39103)",
    "0.11.0": "has GPU scatter-adds hundreds of times slower",
    "0.11.1": "hangs in fori_loop",
}


class UnsupportedJaxError(ImportError):
    """There is no jax, or it is one of the releases in `FAULTY_JAX`."""


def check_jax(version: str) -> None:
    """Refuse a faulty release of jax.

    Raises:
      UnsupportedJaxError: one line with the release, its fault and the way out.
    """
    release = version.partition("+")[0]
    if release in FAULTY_JAX:
        requirement = "jax>=0.7," + ",".join(f"!={bad}" for bad in FAULTY_JAX)
        raise UnsupportedJaxError(
            f"demetar refuses jax {release}, which {FAULTY_JAX[release]}; "
            f"mend it with: python -m pip install '{requirement}'"
        )


def _jax_versions() -> set[str]:
    """The version by the metadata and by jax itself, which is imported only if needed.

    They differ if a copy of jax without metadata hides an installed one.

    Raises:
      UnsupportedJaxError: there is none; one line with the way out.
    """
    versions = set()
    try:
        versions.add(importlib.metadata.version("jax"))
    except importlib.metadata.PackageNotFoundError:
        try:
            import jax  # noqa: F401
        except ModuleNotFoundError:
            raise UnsupportedJaxError(
                f"demetar needs jax, and {sys.executable} has none; install demetar "
                "with what it needs: python -m pip install ."
            ) from None
    if "jax" in sys.modules:
        versions.add(sys.modules["jax"].__version__)
    return versions


class _WithDocstrings(importlib.machinery.SourceFileLoader):
    """Loads a module as it is without -OO."""

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)  # what is cached has no docstrings
        return compile(source, self.path, "exec", dont_inherit=True, optimize=1)


class _KeepDocstrings(importlib.abc.MetaPathFinder):
    """Finds the modules of haiku, which reads its own docstrings, for python -OO."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "haiku":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _WithDocstrings(spec.loader.name, spec.loader.path)
        return spec


def _print_without_traceback() -> None:
    """Let an uncaught `UnsupportedJaxError` end the program with its message alone."""
    previous = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if isinstance(error, UnsupportedJaxError):
            print(error, file=sys.stderr)
        else:
            previous(kind, error, trace)

    sys.excepthook = hook


if sys.flags.optimize > 1:
    sys.meta_path.insert(0, _KeepDocstrings())

try:
    for _version in _jax_versions():
        check_jax(_version)
except UnsupportedJaxError:
    _print_without_traceback()
    raise


def __getattr__(name: str) -> Any:
    """A name of the public face, imported on first use."""
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
