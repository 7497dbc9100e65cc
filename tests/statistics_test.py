"""Bootstrap intervals against formulas, and paired against unpaired comparison."""

import numpy as np
import pytest

from experiments.run import statistics


def test_interval_of_gaussian_errors_is_mean_plus_minus_1_96_standard_errors():
    errors = np.random.default_rng(3).normal(5.0, 2.0, size=1999)
    low, high = statistics.bootstrap_mean(errors)
    error = errors.std(ddof=1) / np.sqrt(1999)
    # The end of 10,000 resamples is itself known to about 0.03 standard errors.
    np.testing.assert_allclose(low, errors.mean() - 1.96 * error, atol=0.12 * error)
    np.testing.assert_allclose(high, errors.mean() + 1.96 * error, atol=0.12 * error)


def test_level_sets_the_width():
    errors = np.random.default_rng(4).normal(size=997)
    low, high = statistics.bootstrap_mean(errors, level=0.6827)
    error = errors.std(ddof=1) / np.sqrt(997)
    np.testing.assert_allclose((high - low) / 2, error, rtol=0.06)


def test_intervals_of_skewed_errors_cover_the_true_mean_95_times_in_100():
    generator = np.random.default_rng(5)
    covered = 0
    for trial in range(300):
        errors = generator.exponential(size=211)
        low, high = statistics.bootstrap_mean(errors, num_resamples=500, seed=trial)
        covered += low < 1.0 < high
    assert 0.90 <= covered / 300 <= 0.98


def test_seeds_are_averaged_before_samples_are_drawn():
    errors = np.random.default_rng(6).exponential(size=(3, 101))
    assert statistics.bootstrap_mean(errors) == statistics.bootstrap_mean(
        errors.mean(axis=0)
    )
    # Seeds that agree are no new samples.
    repeated = np.stack([errors[0]] * 7)
    expected = statistics.bootstrap_mean(errors[0])
    np.testing.assert_allclose(statistics.bootstrap_mean(repeated), expected)


def test_equal_input_gives_equal_intervals_and_another_seed_does_not():
    errors = np.random.default_rng(7).exponential(size=103)
    first = statistics.bootstrap_mean(errors)
    assert first == statistics.bootstrap_mean(errors)
    assert first != statistics.bootstrap_mean(errors, seed=1)


def test_more_resamples_than_fit_one_chunk(monkeypatch):
    errors = np.random.default_rng(8).exponential(size=103)
    whole = statistics.bootstrap_mean(errors, num_resamples=401)
    monkeypatch.setattr(statistics, "_DRAWS_PER_CHUNK", 103 * 50)
    chunked = statistics.bootstrap_mean(errors, num_resamples=401)
    np.testing.assert_allclose(chunked, whole, rtol=0.1)


def test_paired_interval_sees_a_difference_that_the_separate_ones_do_not():
    generator = np.random.default_rng(9)
    hard = generator.exponential(size=499)  # common to both models
    worse = hard + 0.02 + 0.01 * generator.normal(size=499)
    low_a, high_a = statistics.bootstrap_mean(worse)
    low_b, high_b = statistics.bootstrap_mean(hard)
    assert low_a < high_b and low_b < high_a
    mean, low, high = statistics.paired_difference(worse, hard)
    assert 0 < low < mean < high
    np.testing.assert_allclose(mean, 0.02, atol=0.002)


def test_paired_interval_of_equally_good_models_contains_0():
    generator = np.random.default_rng(10)
    hard = generator.exponential(size=499)
    noise = generator.normal(size=(2, 499))
    noise -= noise.mean(axis=1, keepdims=True)
    _, low, high = statistics.paired_difference(hard + noise[0], hard + noise[1])
    assert low < 0 < high


def test_paired_difference_of_models_with_other_numbers_of_seeds():
    errors = np.random.default_rng(11).exponential(size=(3, 101))
    mean, low, high = statistics.paired_difference(errors, errors.mean(axis=0))
    np.testing.assert_allclose([mean, low, high], 0.0, atol=1e-15)


def test_other_samples_cannot_be_paired():
    with pytest.raises(ValueError, match="found 5 and 7"):
        statistics.paired_difference(np.ones(5), np.ones(7))
