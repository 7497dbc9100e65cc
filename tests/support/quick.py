"""Settings of property tests: few examples, and the same ones every time."""

import hypothesis

quick = hypothesis.settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
