"""Commands that tests start, wait for and look at."""

import dataclasses
import pathlib
import subprocess


@dataclasses.dataclass
class Command:
    """A command under way, and when it has ended what came of it."""

    server: subprocess.Popen
    process: int
    cwd: pathlib.Path
    code: int | None = None

    def wait(self) -> "Command":
        assert self.server.stdout is not None
        self.code = int(self.server.stdout.readline())
        return self

    @property
    def output(self) -> str:
        return (self.cwd / "output.txt").read_text()

    @property
    def errors(self) -> str:
        return (self.cwd / "errors.txt").read_text()

    def succeeded(self) -> "Command":
        assert self.code == 0, self.output + self.errors
        return self

    def refused(self, *parts: str) -> None:
        """One clear line on stderr, exit code 2, no traceback."""
        assert self.code == 2, self.output + self.errors
        (line,) = self.errors.splitlines()
        assert line.startswith("error: ")
        for part in parts:
            assert part in line
        assert "Traceback" not in self.output
