"""Generators of data: they share a file format with `demetar`, and no code."""
