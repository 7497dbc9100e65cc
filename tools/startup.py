"""What comes before a command's modules are imported, which takes seconds."""

import signal
import sys


def leave_at_once() -> None:
    """Let SIGINT end `python -m` at once, not by a traceback of whatever is imported.

    A command sets its own handler when it begins. Where this package is imported by
    another program, nothing is changed.
    """
    if sys.argv[:1] == ["-m"]:  # the module is still being searched
        signal.signal(signal.SIGINT, signal.SIG_DFL)
