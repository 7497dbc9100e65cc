"""What models and data cost: `python -m experiments.benchmark --help`."""
