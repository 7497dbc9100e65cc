"""Runs commands in forks of one process that has imported the libraries already.

A fork is a process of its own as far as signals, exit codes, files and jax go; it saves
the seconds of the imports. Each line of stdin asks for one command, as JSON:

    {"module": NAME, "args": [...], "cwd": DIR, "setup": CODE, "output": FILE,
     "errors": FILE}

CODE runs before the command and may break what a test wants broken. A module with a
dot in its NAME runs as `python -m` runs it, the others their `main`. The server answers
with the number of the process at once and with its exit code at the end.
"""

import importlib
import json
import os
import runpy
import sys
import traceback

from demetar import models
from demetar.train import equivariance, pictures, trainer, writers
from experiments.run import cli

# What takes long to import.
IMPORTED = (models, equivariance, pictures, trainer, writers)


def run(request: dict) -> int:
    """The command of a request, in the current process."""
    os.chdir(request["cwd"])
    for number, name in ((1, "output"), (2, "errors")):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.argv = [request["module"], *request["args"]]
    try:
        if "." in request["module"]:
            runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
            return 0
        command = importlib.import_module(f"experiments.{request['module']}")
        exec(request["setup"], {"__name__": "setup"})
        cli.run(command.main, command.LINE)
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        return leaving.code if isinstance(leaving.code, int) else bool(leaving.code)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    for line in sys.stdin:
        process = os.fork()
        if not process:
            code = run(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
