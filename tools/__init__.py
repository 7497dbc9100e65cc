"""Generators and importers of data, in the file formats of `demetar.data`."""

from tools import startup

startup.leave_at_once()

# Before any module asks for jax, so that a missing or faulty one is told in a line.
import demetar as demetar  # noqa: E402
