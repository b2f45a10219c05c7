from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy import stats

from studentfloat.errors import FormatError
from studentfloat.formats import (
    block_optimal,
    lloyd_max,
    normal_float,
    power_density,
    student_float,
)
from studentfloat.formats.lloyd import expected_absmax
from studentfloat.statistics import StudentT


def t_quantile(p: mpmath.mpf, nu: int) -> mpmath.mpf:
    """Quantile of Student's t by inverting the incomplete beta function in 40 digits."""
    if p < mpmath.mpf(1) / 2:
        return -t_quantile(1 - p, nu)

    def tail(x):
        return mpmath.betainc(
            mpmath.mpf(nu) / 2, mpmath.mpf(1) / 2, 0, nu / (nu + x**2), regularized=True
        ) / 2 - (1 - p)

    return mpmath.findroot(
        tail, mpmath.mpf(float(stats.t.ppf(float(p), nu))) + mpmath.mpf(10) ** -6
    )


@pytest.mark.parametrize("nu", [3, 5, 7])
def test_student_float_against_forty_digits(nu: int) -> None:
    with mpmath.workdps(40):
        delta = (mpmath.mpf(1) / 32 + mpmath.mpf(1) / 30) / 2
        half = mpmath.mpf(1) / 2
        low = [delta + (half - delta) * k / 7 for k in range(7)]
        high = [half + (half - delta) * k / 8 for k in range(1, 9)]
        quantiles = [t_quantile(p, nu) for p in low] + [mpmath.mpf(0)]
        quantiles += [t_quantile(p, nu) for p in high]
        expected = [float(q / max(quantiles)) for q in quantiles]
    np.testing.assert_allclose(student_float(4, nu).levels, expected, rtol=1e-12)


@pytest.mark.parametrize("bits", range(2, 9))
def test_quantile_formats_have_their_layout(bits: int) -> None:
    for fmt in (normal_float(bits), student_float(bits, 5)):
        assert len(fmt.levels) == 2**bits
        assert (fmt.minimum, fmt.maximum) == (-1.0, 1.0)
        assert fmt.levels[2 ** (bits - 1) - 1] == 0.0
    without = student_float(bits, 5, zero=False)
    assert without.is_symmetric
    assert not without.has_zero


def test_student_float_tends_to_normal_float() -> None:
    np.testing.assert_allclose(student_float(4, 1e8).levels, normal_float(4).levels, atol=1e-7)
    assert student_float(4, np.inf).levels == normal_float(4).levels


# Max 1960, table I: half of the levels of the optimal quantizer of the unit normal.
MAX_1960 = {
    2: [0.4528, 1.510],
    3: [0.2451, 0.7560, 1.344, 2.152],
    4: [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733],
}


@pytest.mark.parametrize("bits", MAX_1960)
def test_lloyd_max_of_the_normal_is_maxs_table(bits: int) -> None:
    levels = lloyd_max(stats.norm(), bits).levels
    np.testing.assert_allclose(levels[2 ** (bits - 1) :], MAX_1960[bits], atol=6e-4)
    np.testing.assert_allclose(levels, -np.array(levels[::-1]), atol=1e-7)


def test_lloyd_max_of_samples_is_a_fixed_point_and_no_neighbour_is_better(rng) -> None:
    samples, weights = rng.standard_t(5, 3000), rng.uniform(0.5, 2, 3000)
    levels = np.array(lloyd_max(samples, 3, weights=weights, pinned=(0.0,)).levels)
    assert 0.0 in levels

    def error(table):
        return np.sum(weights * np.min((samples[:, None] - table) ** 2, axis=1))

    least = error(levels)
    for i in np.flatnonzero(levels):
        for step in (-0.02, 0.02):
            moved = levels.copy()
            moved[i] += step
            assert error(moved) >= least


def test_lloyd_max_takes_weights_as_multiplicity(rng) -> None:
    samples = rng.standard_normal(400)
    weights = rng.integers(1, 4, 400)
    weighted = lloyd_max(samples, 2, weights=weights)
    repeated = lloyd_max(np.repeat(samples, weights), 2)
    np.testing.assert_allclose(weighted.levels, repeated.levels, rtol=1e-9)


def test_lloyd_max_of_a_histogram_is_that_of_its_law() -> None:
    edges = np.linspace(-8, 8, 4001)
    counts = np.diff(stats.norm.cdf(edges))
    from_law = lloyd_max(stats.norm(), 4).levels
    np.testing.assert_allclose(lloyd_max((counts, edges), 4).levels, from_law, atol=1e-4)


# Blumenberg et al., arXiv 2505.06653: BOF4 and BOF4-S for squared error, blocks of 64.
BOF4 = [-1.0, -0.7535, -0.5792, -0.4386, -0.3167, -0.2060, -0.1016, 0.0]
BOF4_S_LEAST = -0.8568


def test_block_optimal_of_the_normal_is_bof4() -> None:
    plain = block_optimal(stats.norm(), 4, 64)
    np.testing.assert_allclose(plain.levels[:8], BOF4, atol=3e-4)
    signed = block_optimal(stats.norm(), 4, 64, "signed-absmax")
    assert signed.minimum == pytest.approx(BOF4_S_LEAST, abs=3e-4)
    assert signed.maximum == 1.0
    # Above zero both see the same density.
    np.testing.assert_allclose(signed.levels[8:], plain.levels[8:], atol=1e-6)


@pytest.mark.parametrize(
    ("law", "block_size"),
    [(stats.norm(), 16), (stats.t(5), 32), (stats.laplace(), 64), (stats.t(8, scale=3.0), 128)],
)
@pytest.mark.parametrize("rule", ["absmax", "signed-absmax"])
def test_block_optimal_against_simulated_blocks(law, block_size, rule, rng) -> None:
    """The oracle: draw blocks, scale them, weigh by the squared scale, run weighted Lloyd."""
    blocks = law.rvs((1_500_000 // block_size, block_size), random_state=rng)
    at = np.argmax(np.abs(blocks), axis=1, keepdims=True)
    extreme = np.take_along_axis(blocks, at, axis=1)
    scale = np.abs(extreme) if rule == "absmax" else extreme
    weights = np.broadcast_to(scale**2, blocks.shape)
    derived = block_optimal(law, 3, block_size, rule)

    def simulated_error(levels):
        index = np.searchsorted((np.array(levels)[1:] + levels[:-1]) / 2, blocks / scale)
        return np.sum(weights * (blocks / scale - np.array(levels)[index]) ** 2)

    pins = (-1.0, 0.0, 1.0) if rule == "absmax" else (0.0, 1.0)
    fitted = lloyd_max(blocks / scale, 3, weights=weights, pinned=pins)
    assert simulated_error(derived.levels) <= 1.002 * simulated_error(fitted.levels)


def test_block_optimal_does_not_depend_on_the_laws_scale() -> None:
    one, thousand = block_optimal(stats.t(5)), block_optimal(stats.t(5, scale=1000.0))
    np.testing.assert_allclose(one.levels, thousand.levels, atol=1e-6)


def test_block_optimal_of_samples_is_near_that_of_their_law() -> None:
    samples = stats.norm.rvs(size=400_000, random_state=7)
    np.testing.assert_allclose(
        np.abs(block_optimal(samples, 3, 64, "signed-absmax").levels[-4:]),
        block_optimal(stats.norm(), 3, 64, "signed-absmax").levels[-4:],
        atol=0.01,
    )


def test_expected_absmax_against_simulation_and_closed_form(rng) -> None:
    draws = np.abs(rng.standard_normal((200_000, 32))).max(axis=1)
    assert expected_absmax(stats.norm(), 32) == pytest.approx(draws.mean(), rel=3e-3)
    # The largest of n magnitudes of the unit Laplace law is on average the harmonic number.
    harmonic = np.sum(1 / np.arange(1, 129))
    assert expected_absmax(stats.laplace(), 128) == pytest.approx(harmonic, rel=1e-6)


def test_power_density_of_exponent_one_is_the_quantile_rule() -> None:
    levels = power_density(stats.t(5), 4, exponent=1.0).levels
    np.testing.assert_allclose(levels, student_float(4, 5).levels, atol=1e-4)


def test_power_density_of_the_normal_is_a_wider_normal() -> None:
    """The cube root of a normal density is the density of a normal √3 as wide: same levels."""
    levels = power_density(stats.norm(), 4).levels
    np.testing.assert_allclose(levels, normal_float(4).levels, atol=1e-4)


def test_power_density_for_blocks_ends_at_the_cut() -> None:
    levels = power_density(stats.t(7), 4, block_size=128).levels
    assert (levels[0], levels[7], levels[-1]) == (-1.0, 0.0, 1.0)
    assert len(levels) == 16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: student_float(4, 0), "degrees of freedom 0"),
        (lambda: student_float(4, 5, tail=0.7), "tail probability 0.7"),
        (lambda: block_optimal(stats.t(2)), "variance"),
        (lambda: block_optimal(StudentT(0.0, 1.0, 2.0)), "variance"),
        (lambda: lloyd_max(stats.t(2), 4), "variance"),
        (lambda: lloyd_max(stats.cauchy(), 4), "variance"),
        (lambda: lloyd_max(StudentT(0.0, 1.0, 1.5), 4), "variance but inf"),
        (lambda: block_optimal(stats.norm(), 4, 1), "block size"),
        (lambda: block_optimal(stats.norm(), 4, 64, "mse"), "'mse'"),
        (lambda: power_density(stats.t(2)), "heavy"),
        (lambda: power_density(stats.norm(), block_size=0), "block size of 2 or more, not 0"),
        (lambda: power_density(stats.norm(), block_size=-4), "not -4"),
        (lambda: power_density(stats.norm(), block_size=True), "not True"),
        (lambda: power_density(np.ones(5)), "not samples"),
        (lambda: lloyd_max([1.0, 2.0], 3), "fewer than 8"),
        (lambda: lloyd_max([1.0, np.nan], 2), "1 samples or weights"),
        (lambda: lloyd_max([], 2), "no samples"),
        (lambda: lloyd_max(([1, 2], [0, 1]), 2), "one edge more"),
        (lambda: lloyd_max([1.0, 2.0], 2, weights=[1.0]), "1 weights"),
        (lambda: lloyd_max(stats.norm(), 2, pinned=(0, 1, 2, 3)), "4 pinned"),
    ],
)
def test_misuse(call, message) -> None:
    with pytest.raises(FormatError, match=message):
        call()
