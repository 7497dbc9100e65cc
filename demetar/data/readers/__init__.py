"""Readers of molecules, one file per format."""
