"""Training protocols: the settings of each model on each kind of data."""
