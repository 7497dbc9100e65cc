"""Which flags the installed XLA knows: it ends a process that is given another one."""

import os
import subprocess
import sys
from collections.abc import Sequence

_PROBE = "import jax; jax.devices()"


def known(*names: str) -> list[str]:
    """Those of the flags under which jax starts, each `--name=value`."""
    if _starts(names):
        return list(names)
    return [name for name in names if _starts([name])]


def _starts(names: Sequence[str]) -> bool:
    environment = {**os.environ, "XLA_FLAGS": " ".join(names), "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, "-c", _PROBE],
        env=environment,
        capture_output=True,
        check=False,
    )
    return process.returncode == 0
