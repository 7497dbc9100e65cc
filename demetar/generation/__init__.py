"""Molecules that a network draws: how it is done, and how good they are."""
