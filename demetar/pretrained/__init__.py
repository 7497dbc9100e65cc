"""Trained models that come with the package: NAME.npz, each with its record."""
