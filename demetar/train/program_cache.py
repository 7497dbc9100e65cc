"""Compiled programs on the disk, so that a second start neither traces nor compiles.

A program is found by everything that determines it: what the caller says of it, the
shapes of its arguments, the sources of all modules that are no installed package, the
versions of those that are, the settings of jax and of XLA, and the processor. Whatever
differs is compiled anew; a file that is damaged is too, and is replaced.

The files are machine code in jax's own pickles: they are to be read from a folder of
one's own alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import pickle
import platform
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from demetar.errors import UserError
from demetar.train import checkpoint

SUFFIX = ".program"
_PACKAGE = __name__.partition(".")[0]
_DIGEST_BYTES = hashlib.sha256().digest_size
_VARIABLES = ("JAX_", "XLA_", "TF_XLA_")  # prefixes, of the environment
_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
_NOISE = b"cpu_aot_loader.cc"
# What jax or the disk say of a program that they cannot keep.
_NOT_KEPT = (UserError, OSError, ValueError, TypeError, NotImplementedError)


class ProgramCache:
    """The compiled programs of runs that are described alike.

    Args:
      folder: that holds them; made on first use.
      description: JSON data that say, with the sources, what is computed.
    """

    def __init__(self, folder: pathlib.Path, description: Mapping[str, Any]):
        self._folder = folder
        self._description = json.dumps(description, sort_keys=True, default=str)
        self._loaded: list[pathlib.Path] = []

    def get(
        self,
        name: str,
        args: Any,
        devices: Sequence[jax.Device],
        make: Callable[[], Any],
    ) -> Any:
        """The compiled program, from the disk or else from `make`, and then kept.

        Args:
          name: which program of the run.
          args: what it will be called with; shapes and types matter.
          devices: that execute it.
          make: compiles it.
        """
        path = self._folder / f"{self.key(name, args, devices)}{SUFFIX}"
        program = _load(path, devices)
        if program is not None:
            self._loaded.append(path)
            return program
        with _without_jax_cache():
            program = make()
        # What cannot be kept is compiled next time too.
        with contextlib.suppress(*_NOT_KEPT):
            _save(path, program)
            if _load(path, devices) is None:
                path.unlink()
        return program

    def discard_loaded(self) -> bool:
        """Remove the files that programs came from, for one does not run.

        Returns:
          Whether there were any.
        """
        for path in self._loaded:
            path.unlink(missing_ok=True)
        return bool(self._loaded)

    def key(self, name: str, args: Any, devices: Sequence[jax.Device]) -> str:
        """SHA-256 of all that determines a program."""
        leaves, structure = jax.tree.flatten(args)
        shapes = [f"{leaf.dtype}{leaf.shape}" for leaf in leaves]
        places = [f"{device.id} {device.device_kind}" for device in devices]
        parts = [name, self._description, str(structure), *shapes, *places]
        parts += _surroundings()
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _load(path: pathlib.Path, devices: Sequence[jax.Device]) -> Any:
    """The program of a file; None if there is no whole one that jax takes."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if _digest_of(path, payload) != digest:
        return None
    # Whatever is wrong with it, it can be compiled.
    with _quiet_loader(), contextlib.suppress(Exception):
        executable, in_tree, out_tree = pickle.loads(payload)
        return serialize_executable.deserialize_and_load(
            executable, in_tree, out_tree, execution_devices=devices
        )
    return None  # jax will not have it


def _digest_of(path: pathlib.Path, payload: bytes) -> bytes:
    """SHA-256 of a program and of the name that it is kept under."""
    return hashlib.sha256(path.name.encode() + b"\0" + payload).digest()


@contextlib.contextmanager
def _without_jax_cache() -> Iterator[None]:
    """Compile, whatever jax's own persistent cache holds.

    What comes from there lacks parts when it is kept once more, and fails when it runs.
    """
    flag = "jax_enable_compilation_cache"
    before = jax.config.values[flag]
    jax.config.update(flag, False)
    compilation_cache.reset_cache()  # or it keeps to what it was asked first
    try:
        yield
    finally:
        jax.config.update(flag, before)
        compilation_cache.reset_cache()


def _save(path: pathlib.Path, program: Any) -> None:
    payload = pickle.dumps(serialize_executable.serialize(program))
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(path, _digest_of(path, payload) + payload)


@contextlib.contextmanager
def _quiet_loader() -> Iterator[None]:
    """Without XLA's warnings that hints to its compiler are no features of the machine.

    It prints two of them, 2,000 characters each, for every program it loads on a CPU.
    The file was found by the features of this processor.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
                file.seek(0)
                for line in file:
                    if _NOISE not in line:
                        os.write(2, line)
    finally:
        os.close(kept)


@functools.cache
def _surroundings() -> tuple[str, ...]:
    """What determines a program beside the caller: code, versions, machine."""
    versions = sorted(
        f"{item.name}=={item.version}" for item in importlib.metadata.distributions()
    )
    settings = sorted(f"{name}={value}" for name, value in jax.config.values.items())
    variables = sorted(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith(_VARIABLES)
    )
    devices = [f"{device.platform} {device.device_kind}" for device in jax.devices()]
    machine = [platform.machine(), _processor(), str(len(os.sched_getaffinity(0)))]
    return (
        sys.version,
        *versions,
        *settings,
        *variables,
        *devices,
        *machine,
        *(f"{name} {_digest(path)}" for name, path in sorted(own_modules().items())),
    )


def own_modules() -> dict[str, str]:
    """Files of the modules that are loaded and are no installed package but this."""
    libraries = tuple({sysconfig.get_paths()[name] + os.sep for name in _LIBRARIES})
    files = {
        name: getattr(module, "__file__", None)
        for name, module in list(sys.modules.items())
    }
    return {
        name: path
        for name, path in files.items()
        if path
        and (
            name.partition(".")[0] == _PACKAGE
            or not os.path.abspath(path).startswith(libraries)
        )
    }


def _digest(path: str) -> str:
    with contextlib.suppress(OSError):
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    return "unreadable"


def _processor() -> str:
    """Name and features of the processor, if the system tells them."""
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(
            sorted({x for x in lines if x.startswith(("flags", "Features", "model"))})
        )
    return platform.processor()
