"""Generators of data: they share a file format with `demetar`, and no code."""

from tools import startup

startup.leave_at_once()
