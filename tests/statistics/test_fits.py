from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from scipy import optimize, stats

from studentfloat.errors import DataError
from studentfloat.statistics import (
    LAWS,
    GeneralizedNormal,
    Laplace,
    Logistic,
    Normal,
    Sketch,
    StudentT,
    fit_laws,
    fit_student_t,
    quantile_pairs,
)

# One table of instances drives the generic tests: our law, SciPy's, and mpmath's density.
INSTANCES = [
    (StudentT(0.0, 1.0, 5.0), stats.t(5.0), lambda z: (1 + z**2 / 5) ** -3),
    (
        StudentT(0.3, 2.0, 0.7),
        stats.t(0.7, 0.3, 2.0),
        lambda z: (1 + z**2 / mpmath.mpf("0.7")) ** mpmath.mpf("-0.85"),
    ),
    (
        StudentT(0.0, 0.05, 300.0),
        stats.t(300.0, 0.0, 0.05),
        lambda z: (1 + z**2 / 300) ** mpmath.mpf("-150.5"),
    ),
    (StudentT(0.0, 1.0, math.inf), stats.norm(), lambda z: mpmath.exp(-(z**2) / 2)),
    (Normal(-1.0, 3.0), stats.norm(-1.0, 3.0), lambda z: mpmath.exp(-(z**2) / 2)),
    (Laplace(0.0, 0.5), stats.laplace(0.0, 0.5), lambda z: mpmath.exp(-z)),
    (
        GeneralizedNormal(0.0, 1.0, 1.3),
        stats.gennorm(1.3),
        lambda z: mpmath.exp(-(z ** mpmath.mpf("1.3"))),
    ),
    (GeneralizedNormal(1.0, 2.0, 4.0), stats.gennorm(4.0, 1.0, 2.0), lambda z: mpmath.exp(-(z**4))),
    (Logistic(0.0, 1.0), stats.logistic(), lambda z: mpmath.exp(-z) / (1 + mpmath.exp(-z)) ** 2),
]


@pytest.mark.parametrize(("law", "scipy_law"), [pair[:2] for pair in INSTANCES])
def test_laws_are_scipys(law, scipy_law) -> None:
    x = np.asarray(scipy_law.ppf(np.linspace(0.0005, 0.9995, 41)))
    np.testing.assert_allclose(law.logpdf(x), scipy_law.logpdf(x), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(law.cdf(x), scipy_law.cdf(x), rtol=1e-9)
    np.testing.assert_allclose(law.sf(x), scipy_law.sf(x), rtol=1e-9)
    variance = float(scipy_law.var())  # NaN where SciPy calls the infinite one undefined
    assert law.var() == pytest.approx(variance if np.isfinite(variance) else np.inf, rel=1e-12)
    np.testing.assert_allclose(law.ppf(law.cdf(x)), x, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(law.isf(law.sf(x)), x, rtol=1e-7, atol=1e-9)
    log_cdf, log_sf = law.log_probabilities(x)
    np.testing.assert_allclose(log_cdf, scipy_law.logcdf(x), rtol=1e-9)
    np.testing.assert_allclose(log_sf, scipy_law.logsf(x), rtol=1e-9)


@pytest.mark.parametrize(("law", "_scipy", "density"), INSTANCES)
def test_quantiles_against_thirty_digits(law, _scipy, density) -> None:
    """The density of mpmath, integrated from our quantile outward, gives the probability back."""
    with mpmath.workdps(30):
        points = [0, 1, 3, 10, 100, mpmath.inf]
        whole = mpmath.quad(density, points)
        for q in (0.25, 0.01, 1e-4, 1e-7):
            z = mpmath.mpf(float((law.isf(q) - law.location) / law.scale))
            tail = mpmath.quad(density, [z, 2 * z, 4 * z, 10 * z, 100 * z, mpmath.inf])
            assert float(tail / whole / 2) == pytest.approx(q, rel=1e-7)


def full_data_student_t(x: np.ndarray, location: float | None):
    """The oracle: ν that maximizes SciPy's density summed over every sample."""

    def loss(parameters):
        at = parameters[2] * x.std() if location is None else location
        return -stats.t.logpdf(x, math.exp(parameters[0]), at, math.exp(parameters[1])).mean()

    start = [math.log(8), math.log(x.std() * 0.8)] + ([0.0] if location is None else [])
    found = optimize.minimize(
        loss, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-14, "maxiter": 2000}
    )
    return math.exp(found.x[0]), math.exp(found.x[1])


@pytest.mark.parametrize("nu", [0.7, 2.0, 5.0, 12.0])
@pytest.mark.parametrize("location", [0.0, None])
def test_student_t_is_that_of_the_full_data(nu, location, rng) -> None:
    x = rng.standard_t(nu, 20_000).astype(np.float32) * np.float32(0.03)
    expected = full_data_student_t(x.astype(np.float64), location)
    fit = fit_student_t(x, location=location)
    assert fit.law.degrees_of_freedom == pytest.approx(expected[0], rel=1e-4)
    assert fit.law.scale == pytest.approx(expected[1], rel=1e-5)


def test_student_t_against_thirty_digits() -> None:
    """At the fitted ν and scale, the score that mpmath sums over the samples vanishes."""
    x = stats.t.rvs(4, size=300, random_state=3).astype(np.float32)
    fit = fit_student_t(x)
    with mpmath.workdps(30):
        samples = [mpmath.mpf(float(v)) for v in x]

        def total(nu, scale):
            log_constant = (
                mpmath.loggamma((nu + 1) / 2)
                - mpmath.loggamma(nu / 2)
                - mpmath.log(mpmath.pi * nu) / 2
            )
            return len(samples) * (log_constant - mpmath.log(scale)) - (nu + 1) / 2 * sum(
                mpmath.log1p((v / scale) ** 2 / nu) for v in samples
            )

        nu, scale = mpmath.findroot(
            lambda n, s: [mpmath.diff(total, (n, s), (1, 0)), mpmath.diff(total, (n, s), (0, 1))],
            (fit.law.degrees_of_freedom, fit.law.scale),
        )
        assert fit.law.degrees_of_freedom == pytest.approx(float(nu), rel=2e-5)
        assert fit.law.scale == pytest.approx(float(scale), rel=1e-5)
        assert fit.log_likelihood == pytest.approx(float(total(nu, scale)) / 300, abs=1e-6)


def test_interval_is_where_the_profile_has_dropped_by_1_92(rng) -> None:
    x = rng.standard_t(6, 4000)
    fit = fit_student_t(x)

    def best_at(nu):
        found = optimize.minimize_scalar(
            lambda b: -stats.t.logpdf(x, nu, 0, math.exp(b)).sum(), bounds=(-1, 1), method="bounded"
        )
        return -found.fun

    low, high = fit.interval
    assert low < fit.law.degrees_of_freedom < high
    top = best_at(fit.law.degrees_of_freedom)
    for end in (low, high):
        assert top - best_at(end) == pytest.approx(1.9207, abs=0.01)


def test_interval_covers_the_truth_nineteen_times_in_twenty(rng) -> None:
    covered = 0
    for _ in range(200):
        low, high = fit_student_t(rng.standard_t(5, 500)).interval
        covered += low <= 5 <= high
    assert 180 <= covered <= 198


def test_normal_data_reads_as_normal_not_as_a_million(rng) -> None:
    uniform = rng.uniform(-1, 1, 20_000)
    fit = fit_student_t(uniform)
    assert fit.law.degrees_of_freedom == math.inf
    assert fit.interval[1] == math.inf
    assert fit.law.scale == pytest.approx(uniform.std(), rel=1e-2)
    for seed in range(6):
        fits = fit_laws(
            np.random.default_rng(seed).standard_normal(5000), laws=("student_t", "normal")
        )
        assert fits.by_law["student_t"].interval[1] == math.inf or fits.best_is_significant
        assert fits.by_law["student_t"].law.degrees_of_freedom > 30


SCIPY_LAWS = {
    "normal": stats.norm,
    "laplace": stats.laplace,
    "generalized_normal": stats.gennorm,
    "logistic": stats.logistic,
}


@pytest.mark.parametrize("name", SCIPY_LAWS)
@pytest.mark.parametrize("location", [0.0, None])
def test_other_laws_are_at_least_as_likely_as_scipys_fit(name, location, rng) -> None:
    x = (rng.standard_t(7, 6000) * 0.1 + (0.02 if location is None else 0.0)).astype(np.float32)
    x = x.astype(np.float64)
    fit = fit_laws(x, location=location).by_law[name]
    fixed = {} if location is None else {"floc": 0.0}
    scipy_fit = SCIPY_LAWS[name].fit(x, **fixed)
    exact = SCIPY_LAWS[name].logpdf(x, *scipy_fit).mean()
    assert fit.log_likelihood >= exact - 1e-6
    assert fit.law.logpdf(x).mean() == pytest.approx(fit.log_likelihood, abs=2e-6)
    assert fit.law.scale == pytest.approx(scipy_fit[-1], rel=2e-2)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("location", [0.0, None])
def test_standard_errors_are_the_spread_over_repetitions(name, location) -> None:
    truth = {
        "student_t": stats.t(5),
        "normal": stats.norm(),
        "laplace": stats.laplace(),
        "generalized_normal": stats.gennorm(1.6),
        "logistic": stats.logistic(),
    }[name]
    rng = np.random.default_rng(5)
    runs = [
        fit_laws(
            truth.rvs(2000, random_state=rng),
            location=location,
            laws=(name, "normal" if name != "normal" else "laplace"),
        ).by_law[name]
        for _ in range(120)
    ]
    for parameter in runs[0].standard_errors:
        spread = np.std([getattr(run.law, parameter) for run in runs])
        claimed = np.median([run.standard_errors[parameter] for run in runs])
        assert claimed == pytest.approx(spread, rel=0.3), parameter


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: rng.standard_t(4, 30_000),
        lambda rng: np.round(rng.standard_normal(30_000) * 8) / 8 + 1e-4,  # on a grid: atoms
        lambda rng: rng.standard_normal(30_000) * rng.choice([0.1, 1.0], 30_000),
    ],
)
def test_distances_against_the_exact_ones(make, rng) -> None:
    x = np.sort(make(rng).astype(np.float32)).astype(np.float64)
    rank = 2 * np.arange(1, x.size + 1) - 1
    for fit in fit_laws(x).by_law.values():
        exact = stats.kstest(x, fit.law.cdf).statistic
        assert fit.ks == pytest.approx(exact, abs=1e-3)
        log_cdf, log_sf = fit.law.log_probabilities(x)
        squared = -1 - np.mean(rank * (log_cdf + log_sf[::-1])) / x.size
        assert fit.anderson_darling == pytest.approx(squared, rel=0.02, abs=2e-6)


def test_fits_of_merged_sketches_are_those_of_the_whole(rng) -> None:
    x = rng.standard_t(5, 40_000).astype(np.float32)
    whole, merged = Sketch.of(x), Sketch()
    for part in np.array_split(x, 7)[::-1]:
        merged.merge(Sketch.of(part))
    one, other = fit_laws(whole), fit_laws(merged)
    assert {name: fit.law for name, fit in one.by_law.items()} == {
        name: fit.law for name, fit in other.by_law.items()
    }


@pytest.mark.parametrize(
    ("draw", "best"),
    [
        (lambda rng: rng.standard_t(4, 50_000), "student_t"),
        (lambda rng: rng.standard_normal(50_000), "normal"),
        (lambda rng: rng.laplace(size=50_000), "laplace"),
        (lambda rng: rng.logistic(size=50_000), "logistic"),
        (lambda rng: stats.gennorm.rvs(4, size=50_000, random_state=rng), "generalized_normal"),
    ],
)
def test_the_law_that_was_drawn_from_wins(draw, best, rng) -> None:
    fits = fit_laws(draw(rng))
    # Richer laws contain normal and Laplace: those may only be beaten by chance.
    assert fits.best == best or fits.best_p_value > 0.002
    if best in ("student_t", "logistic", "generalized_normal"):
        assert fits.best == best
        assert fits.best_is_significant


def test_quantile_pairs_lie_on_a_line_for_the_right_law(rng) -> None:
    fits = fit_laws(rng.standard_t(4, 200_000))
    law, numbers = quantile_pairs(fits.cells, fits.by_law["student_t"].law)
    inner = slice(15, -15)
    np.testing.assert_allclose(numbers[inner], law[inner], rtol=0.1, atol=0.01)
    assert (np.diff(numbers) >= 0).all()
    _, normal = quantile_pairs(fits.cells, fits.by_law["normal"].law)
    assert abs(normal[5]) > 1.3 * abs(fits.by_law["normal"].law.ppf(0.0001))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(100), "all 100 values are zero"),
        (np.full(100, 0.25), "all 100 values are 0.25"),
        ([1.5], "one value only"),
        (np.zeros(0), "no values"),
        ([np.nan, np.inf], "no finite values .2 NaN or infinite"),
        (np.tile([1.0, -1.0], 50), "only 2 values can be told apart"),
        (np.tile([1.0, 2.0], 50), "only 2 values can be told apart"),
        (np.array([1e200, 1.0, 2.0]), "1e\\+200"),
        (np.arange(100), "int64"),
    ],
)
def test_what_has_no_law_gets_a_clear_word(values, message) -> None:
    with pytest.raises(DataError, match=message):
        fit_laws(values)


def test_notes_on_what_was_left_out(rng) -> None:
    x = rng.standard_t(5, 10_000)
    x[:3] = [np.nan, np.inf, -np.inf]
    assert fit_laws(x).notes == ("1 NaN and 2 infinite values left out",)
    relu = np.maximum(rng.standard_normal(10_000), 0)
    assert "exactly zero" in fit_laws(relu).notes[0]
    assert fit_laws(relu).count == np.count_nonzero(relu)


def test_a_tail_heavier_than_any_t_is_told_so(rng) -> None:
    x = rng.choice([-1.0, 1.0], 4000) * np.exp(rng.uniform(-340, 340, 4000))
    fits = fit_laws(x)
    assert "heavier" in fits.notes[0]
    assert fits.by_law["student_t"].law.degrees_of_freedom == 0.05


def test_an_unknown_law_is_named() -> None:
    with pytest.raises(DataError, match="'cauchy'"):
        fit_laws(np.linspace(-1, 1, 100), laws=("cauchy", "normal"))


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.24])
def test_zeros_among_the_numbers_do_not_draw_the_scale_to_zero(rng, share) -> None:
    """What leaves a ReLU: an atom makes the likelihood unbounded for small ν."""
    x = rng.standard_t(5, 4000).astype(np.float32)
    x[: int(share * x.size)] = 0
    fits = fit_laws(x)
    t, normal = fits.by_law["student_t"], fits.by_law["normal"]
    assert 0.3 * normal.law.scale < t.law.scale < normal.law.scale
    assert t.log_likelihood > normal.log_likelihood
    assert 1 < t.law.degrees_of_freedom < 6
    low, high = t.interval
    assert low < t.law.degrees_of_freedom < high
    flat = rng.random(1000).astype(np.float32) + 0.1
    flat[: int(share * flat.size)] = 0
    assert math.isinf(fit_laws(flat).by_law["student_t"].law.degrees_of_freedom)
