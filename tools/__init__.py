"""Generators and importers of data, in the file formats of `demetar.data`."""

from tools import startup

startup.leave_at_once()
