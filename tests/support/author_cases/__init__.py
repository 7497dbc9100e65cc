"""Golden files of the authors' own code, a module for each model."""
