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
    from torch._inductor import config as inductor_config
    from torch.fx.experimental import proxy_tensor
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
except ImportError:
    raise UserError(
        "the comparison with PyTorch needs PyTorch, which is not installed; install "
        "`torch` as https://pytorch.org says, or leave the comparison out"
    ) from None

COMPILE_SECONDS = 600.0  # for each program
INSTALL = "python -m pip install torch torch_geometric nequip==0.6.1 torchmd-net e3nn"
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
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


def description() -> str:
    """PyTorch's version and where it computes."""
    found = device()
    name = "the processor"
    if found.type == "cuda":
        name = f"{torch.cuda.get_device_name(found)}, TensorFloat-32 off on both sides"
    return f"PyTorch {torch.__version__} on {name}"


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


def num_params(module: Any) -> int:
    """Of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def opponents(
    make: Callable[[bool], Callable[[], Any]], with_compiled: bool
) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """PyTorch's plain program, and if asked the one that `torch.compile` makes.

    Args:
      make: (whether `torch.compile` is to be used) -> a program.
      with_compiled: whether both are asked for.

    Returns:
      The programs 'torch' and, if it works, 'compiled'; columns that say what came of
      it, empty unless asked for.
    """
    runs = {"torch": waiting(make(False))}
    if not with_compiled:
        return runs, {}
    found = compiled(lambda: make(True))
    if found.run is not None:
        runs["compiled"] = found.run
    columns = {
        "torch.compile": found.word,
        "compile_seconds": found.seconds,
        "reason": found.reason,
    }
    return runs, columns


def traced(function: Callable[..., Any], *args: Any) -> Any:
    """A function as the list of operations that it calls, for `torch.compile`.

    Within it gradients are operations as any others, so a training step takes only one
    gradient of what is compiled: of two, one within the other, `torch.compile` has only
    the first. Numbers that the function reads from tensors are those of these arguments
    for good, as the sizes of graphs.
    """
    operations = _Operations()

    def with_modes(*args: Any) -> Any:
        with operations, _Detached(operations):
            return function(*args)

    return proxy_tensor.make_fx(with_modes)(*args)


class _Operations(TorchDispatchMode):
    """What is traced in another way than it is called.

    A number is read from a tensor. An operation that keeps its output for its gradient
    keeps it detached: traced so, a second gradient would stop there.

    Attributes:
      by_hand: whether the function itself asks for a tensor without gradient.
    """

    by_hand = False

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if operation is torch.ops.aten._local_scalar_dense.default:
            with proxy_tensor.disable_proxy_modes_tracing():
                return operation(*args)
        if operation is torch.ops.aten.detach.default and not self.by_hand:
            operation = torch.ops.aten.alias.default
        return operation(*args, **(kwargs or {}))


class _Detached(TorchFunctionMode):
    """Tells when the function itself asks for a tensor without gradient."""

    def __init__(self, operations: _Operations):
        super().__init__()
        self.operations = operations

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.operations.by_hand = function is torch.Tensor.detach
        try:
            return function(*args, **(kwargs or {}))
        finally:
            self.operations.by_hand = False


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
        # Its caches look into every module that is loaded, and haiku has one that is
        # there to raise errors.
        uncached = inductor_config.patch(force_disable_caches=True)
        with _alarm(limit), uncached:
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
    """The first line of an error that says something, shortened."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.endswith("raised:")]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= _REASON_LENGTH else f"{line[:_REASON_LENGTH]}..."
