"""What all comparisons with PyTorch share: the device, the clock and `torch.compile`.

The device is that of jax: a GPU if jax computes on one, the processor otherwise. Both
sides then multiply float32 in full: TensorFloat-32 is off.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from demetar.errors import UserError

try:
    import torch
except ImportError:
    raise UserError(
        "the comparison with PyTorch needs PyTorch, which is not installed; install "
        "`torch` as https://pytorch.org says, or leave the comparison out"
    ) from None

COMPILE_SECONDS = 300.0  # for each program
INSTALL = (
    "python -m pip install torch torch_geometric nequip==0.6.1 torchmd-net e3nn"
)
_REASON_LENGTH = 160


def missing(package: str, error: ImportError) -> str:
    """What to say if a code that is compared with is not installed."""
    return (
        f"the comparison with PyTorch needs {package} ({error}); `{INSTALL}` installs "
        "what it compares with"
    )


def device() -> Any:
    """The device of PyTorch's side, with TensorFloat-32 off.

    Raises:
      UserError: jax computes on a GPU that PyTorch does not see, or on a TPU.
    """
    platform = jax.default_backend()
    if platform == "cpu":
        return torch.device("cpu")
    if platform != "gpu" or not torch.cuda.is_available():
        raise UserError(
            f"expected a GPU that PyTorch sees too, since jax computes on {platform}; "
            "found none: install PyTorch for it, or set JAX_PLATFORMS=cpu"
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


def tensor(values: Any, dtype: Any = None) -> Any:
    """A copy of an array on that device, of NumPy's type `dtype`."""
    return torch.tensor(np.array(values, dtype)).to(device())


def waiting(run: Callable[[], Any]) -> Callable[[], Any]:
    """The program, which ends when the device has finished."""
    if device().type == "cpu":
        return run

    def run_and_wait() -> Any:
        result = run()
        torch.cuda.synchronize()
        return result

    return run_and_wait


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What came of `torch.compile`.

    Attributes:
      word: 'yes', 'not supported', 'failed' or 'too slow'.
      run: the program if the word is 'yes'.
      seconds: until it had run twice, or until it was given up.
      reason: of PyTorch, one line; empty if the word is 'yes'.
    """

    word: str
    run: Callable[[], Any] | None
    seconds: float
    reason: str = ""


def compiled(
    make: Callable[[], Callable[[], Any]], limit: float = COMPILE_SECONDS
) -> Compiled:
    """A program that `torch.compile` makes, within a limit of seconds.

    What was compiled before is forgotten: PyTorch would else count it against its limit
    of programs per function, and go on without compiling.

    Args:
      make: the program; it compiles when it is called first.
      limit: seconds.
    """
    torch.compiler.reset()
    start = time.perf_counter()
    try:
        with _alarm(limit):
            run = waiting(make())
            run(), run()
    except Exception as error:
        seconds = time.perf_counter() - start
        if seconds >= limit:
            return Compiled("too slow", None, seconds, f"above {limit:.0f} s")
        reason = _reason(error)
        unsupported = "not support" in reason or "not currently support" in reason
        word = "not supported" if unsupported else "failed"
        return Compiled(word, None, seconds, reason)
    return Compiled("yes", run, time.perf_counter() - start)


@contextmanager
def _alarm(limit: float) -> Iterator[None]:
    """Ends what runs within by a TimeoutError after so many seconds."""

    def ring(*_: Any) -> None:
        raise TimeoutError(f"above {limit:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _reason(error: Exception) -> str:
    """The first line of an error, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= _REASON_LENGTH else f"{line[:_REASON_LENGTH]}..."
