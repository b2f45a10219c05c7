r"""Student's t by maximum likelihood, from cells rather than samples.

With ``u = (x - μ)² / (ν s²)`` the mean log-likelihood of a sample is

.. math:: \ell = \log\frac{\Gamma((ν+1)/2)}{\Gamma(ν/2)\sqrt{πν}} - \log s
          - \frac{ν+1}{2}\,\overline{\log(1 + u)} ,

a function of means over the cells, so it costs the same for a thousand numbers as for
a billion. Newton's method climbs it in (log ν, log s, μ). As ν → ∞ the law becomes normal;
where that end of the range is the most likely, ν *is* infinity.

References
----------
Lange, Little & Taylor, JASA 84(408), 1989 (likelihood and scores of the t law);
Venzon & Moolgavkar, Applied Statistics 37(1), 1988 (profile-likelihood intervals).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

from studentfloat.statistics.laws import StudentT, log_t_constant
from studentfloat.statistics.newton import Maximum, bisect, maximize
from studentfloat.statistics.sketch import Cells

__all__ = ["LARGEST_NU", "SMALLEST_NU", "StudentFit", "fit_student_t_to_cells", "least_nu"]

Floats: TypeAlias = npt.NDArray[np.float64]

SMALLEST_NU = 0.05
LARGEST_NU = 1e4
"""Beyond it, t and the normal law differ by less than 2e-5 anywhere: ν reads infinity."""

_HALF_CHI2_95 = 1.9207294103470619  # half the 95 % quantile of chi-squared, 1 degree of freedom
_START_NU = np.array([0.1, 0.25, 0.5, 1, 2, 3, 4.5, 7, 11, 18, 35, 80, 300])
_START_PER_UNIT = 48


@dataclass(frozen=True)
class StudentFit:
    """A fitted t law.

    Attributes
    ----------
    law
        Its ``degrees_of_freedom`` is infinity where the normal law is at least as likely.
    log_likelihood
        Mean per sample, nats.
    interval
        95 % profile-likelihood interval of ν, for independent samples; its ends may
        be infinity.
    standard_errors
        Of ``degrees_of_freedom`` (None at infinity), ``scale`` and, where it was fitted,
        ``location``; from the observed information.
    """

    law: StudentT
    log_likelihood: float
    interval: tuple[float, float]
    standard_errors: dict[str, float | None]


def least_nu(cells: Cells) -> float:
    """The least ν that is tried.

    Exact zeros are an atom: with a share z of them, the likelihood of a law centered there
    grows without bound as its scale goes to zero, wherever ν < z / (1 - z). Twice that is
    far enough from it for a maximum to be one of the other numbers.
    """
    zeros = float(cells.count[cells.low == cells.high].sum()) / cells.total
    return max(SMALLEST_NU, 2 * zeros / (1 - zeros)) if zeros < 1 else SMALLEST_NU


class _Likelihood:
    """The mean log-likelihood and its derivatives in ``(log ν, log s, μ / unit)``."""

    def __init__(self, cells: Cells, location: float | None, unit: float) -> None:
        self.weight = cells.count / cells.total
        self.mean = cells.mean
        self.square = cells.square
        self.unit = unit
        self.fixed = location
        if location is not None:
            self.distance2 = self._distance2(location)
        self.least_nu = least_nu(cells)

    @property
    def size(self) -> int:
        """How many parameters are free."""
        return 2 if self.fixed is not None else 3

    def _distance2(self, location: float) -> Floats:
        return np.maximum(self.square + location * (location - 2 * self.mean), 0.0)

    def __call__(self, parameters: Floats) -> tuple[float, Floats, Floats]:
        nu, scale = math.exp(parameters[0]), math.exp(parameters[1])
        location = parameters[2] * self.unit if self.fixed is None else self.fixed
        distance2 = self.distance2 if self.fixed is not None else self._distance2(location)
        u = distance2 / (nu * scale**2)
        inverse = 1 / (1 + u)
        share = u * inverse
        log_mean = float(self.weight @ np.log1p(u))
        share_mean = float(self.weight @ share)
        curve_mean = float(self.weight @ (share * inverse))
        value = log_t_constant(nu) - parameters[1] - (nu + 1) / 2 * log_mean
        by_nu = 0.5 * (
            float(special.digamma((nu + 1) / 2) - special.digamma(nu / 2))
            - 1 / nu
            - log_mean
            + (nu + 1) / nu * share_mean
        )
        by_nu2 = 0.5 * (
            0.5 * float(special.zeta(2, (nu + 1) / 2) - special.zeta(2, nu / 2))  # trigamma
            + 1 / nu**2
            + share_mean / nu
            - share_mean / nu**2
            - (nu + 1) / nu**2 * curve_mean
        )
        gradient = np.array([nu * by_nu, (nu + 1) * share_mean - 1])
        cross = nu * (share_mean - (nu + 1) / nu * curve_mean)
        hessian = np.array(
            [[nu * by_nu + nu**2 * by_nu2, cross], [cross, -2 * (nu + 1) * curve_mean]]
        )
        if self.fixed is not None:
            return value, gradient, hessian
        by_place, row = self._location(nu, scale, location, u)
        full = np.empty((3, 3))
        full[:2, :2], full[2], full[:, 2] = hessian, row, row
        return value, np.append(gradient, by_place), full

    def _location(
        self, nu: float, scale: float, location: float, u: Floats
    ) -> tuple[float, Floats]:
        """The derivative in the location, in units of :attr:`unit`, and its Hessian's row."""
        inverse = 1 / (1 + u)
        factor = (nu + 1) / (nu * scale**2) * self.unit
        distance = self.mean - location
        first = float(self.weight @ (distance * inverse))
        second = float(self.weight @ (distance * inverse**2))
        curve = float(self.weight @ ((1 - u) * inverse**2))
        by_nu = factor * (first - second) - first * self.unit / (nu * scale**2)
        return factor * first, np.array([by_nu, -2 * factor * second, -factor * self.unit * curve])

    def at_nu(self, log_nu: float, start: Floats) -> Maximum:
        """The most likely scale (and location) for a given ν."""

        def conditional(rest: Floats) -> tuple[float, Floats, Floats]:
            value, gradient, hessian = self(np.concatenate([[log_nu], rest]))
            return value, gradient[1:], hessian[1:, 1:]

        return maximize(conditional, start)


def fit_student_t_to_cells(cells: Cells, location: float | None, center: float) -> StudentFit:
    """The most likely t law.

    Parameters
    ----------
    cells
        For a location of zero, best those of the magnitudes: half as many.
    location
        Where the law's center is known to be; None to fit it as well.
    center
        Where to look for the center first (the median).
    """
    around = center if location is None else location
    weight = cells.count / cells.total
    unit = math.sqrt(float(weight @ ((cells.mean - around) ** 2)))
    likelihood = _Likelihood(cells, location, unit)
    start = _start(cells, around, unit, likelihood.least_nu)
    if location is None:
        start = np.append(start, center / unit)
    least = likelihood.least_nu
    bounds = math.log(least), math.log(LARGEST_NU)
    found = maximize(likelihood, start, lambda at: not bounds[0] <= at[0] <= bounds[1])
    normal_mean = float(weight @ cells.mean) if location is None else location
    variance = float(weight @ (cells.square + normal_mean * (normal_mean - 2 * cells.mean)))
    normal_value = -0.5 * math.log(2 * math.pi * variance) - 0.5
    log_nu = float(found.at[0])
    if log_nu > math.log(LARGEST_NU) or found.value <= normal_value:
        law = StudentT(normal_mean, math.sqrt(variance), math.inf)
        rest = np.array([math.log(law.scale), normal_mean / unit])[: likelihood.size - 1]
        low = _lower_end(likelihood, cells.total, normal_value, rest)
        errors = _normal_errors(law.scale, cells.total, location)
        return StudentFit(law, normal_value, (low, math.inf), errors)
    if log_nu < math.log(least):
        # So heavy a tail is no t law at all: its likelihood may grow without end as ν → 0.
        bound = likelihood.at_nu(math.log(least), found.at[1:])
        at = float(bound.at[1]) * unit if location is None else location
        law = StudentT(at, math.exp(bound.at[0]), least)
        none = dict.fromkeys(("degrees_of_freedom", "scale"))
        return StudentFit(law, bound.value, (0.0, least), none)
    nu, scale = math.exp(log_nu), math.exp(found.at[1])
    fitted = float(found.at[2]) * unit if location is None else location
    return StudentFit(
        law=StudentT(fitted, scale, nu),
        log_likelihood=found.value,
        interval=_interval(likelihood, found, cells.total, normal_value),
        standard_errors=_standard_errors(found, nu, scale, unit, cells.total),
    )


def _start(cells: Cells, around: float, unit: float, least: float) -> Floats:
    """Log ν and log s to start from: the best of a grid of ν, on few cells."""
    few = cells.pooled(around, unit, _START_PER_UNIT)
    weight = few.count / few.total
    distance2 = np.maximum(few.square + around * (around - 2 * few.mean), 0.0)
    tried = _START_NU[least <= _START_NU]
    nu = tried[:, None]
    log_scale = np.full(nu.size, math.log(unit))
    for _ in range(8):  # for a given ν the likelihood is concave in log s
        u = distance2 / (nu * np.exp(2 * log_scale)[:, None])
        share = u / (1 + u)
        slope = (tried + 1) * (share @ weight) - 1
        curve = 2 * (tried + 1) * ((share / (1 + u)) @ weight)
        log_scale += np.clip(slope / np.maximum(curve, 1e-300), -2, 2)
    u = distance2 / (nu * np.exp(2 * log_scale)[:, None])
    constant = np.array([log_t_constant(float(v)) for v in tried])
    value = constant - log_scale - (tried + 1) / 2 * (np.log1p(u) @ weight)
    best = int(np.argmax(value))
    return np.array([math.log(tried[best]), log_scale[best]])


def _interval(
    likelihood: _Likelihood, found: Maximum, count: float, normal_value: float
) -> tuple[float, float]:
    """Both ends of the 95 % interval of ν, where the profile has dropped by 1.92 / n."""
    curvature = _profile_curvature(found.hessian)
    step = math.sqrt(2 * _HALF_CHI2_95 / count / curvature) if curvature > 0 else 1.0
    low = _end(likelihood, found, count, -min(step, 2.0))
    if count * (found.value - normal_value) <= _HALF_CHI2_95:
        return low, math.inf
    return low, _end(likelihood, found, count, min(step, 2.0))


def _profile_curvature(hessian: Floats) -> float:
    """Minus the second derivative in log ν, the others at their best for each ν."""
    rest = hessian[1:, 1:]
    return float(hessian[0, 1:] @ np.linalg.solve(rest, hessian[1:, 0]) - hessian[0, 0])


def _end(likelihood: _Likelihood, found: Maximum, count: float, step: float) -> float:
    """One end: secants on the root of the likelihood ratio, which is nearly linear in log ν."""
    target = math.sqrt(2 * _HALF_CHI2_95)
    top, rest = float(found.at[0]), found.at[1:]
    limit = math.log(likelihood.least_nu) if step < 0 else math.log(LARGEST_NU)

    def root(log_nu: float) -> float:
        nonlocal rest
        conditional = likelihood.at_nu(log_nu, rest)
        rest = conditional.at
        return math.sqrt(max(2 * count * (found.value - conditional.value), 0.0))

    before, root_before, at = top, 0.0, top + step
    for _ in range(40):
        if (at - limit) * step > 0:
            if root(limit) <= target:
                return 0.0 if step < 0 else math.inf
            return math.exp(bisect(lambda a: root(a) - target, top, limit))
        here = root(at)
        if abs(here - target) < 1e-4 * target:
            break
        slope = (here - root_before) / (at - before)
        if not slope * step > 0:
            at += step
            continue
        before, root_before, at = at, here, at + (target - here) / slope
    return math.exp(at)


def _lower_end(likelihood: _Likelihood, count: float, normal_value: float, rest: Floats) -> float:
    """The lower end of ν's interval where the normal law is the most likely."""

    def above(log_nu: float) -> float:
        value = likelihood.at_nu(log_nu, rest).value
        return count * (normal_value - value) - _HALF_CHI2_95

    low, high = math.log(likelihood.least_nu), math.log(LARGEST_NU)
    if above(high) >= 0:
        return LARGEST_NU
    if above(low) <= 0:
        return 0.0
    return math.exp(bisect(above, low, high))


def _standard_errors(
    found: Maximum, nu: float, scale: float, unit: float, count: float
) -> dict[str, float | None]:
    names = ["degrees_of_freedom", "scale", "location"][: found.at.size]
    factors = np.array([nu, scale, unit])[: found.at.size]
    try:
        variances = np.diag(np.linalg.inv(-found.hessian)) / count
    except np.linalg.LinAlgError:
        return dict.fromkeys(names)
    return {
        name: float(factor * math.sqrt(variance)) if variance > 0 else None
        for name, factor, variance in zip(names, factors, variances, strict=True)
    }


def _normal_errors(scale: float, count: float, location: float | None) -> dict[str, float | None]:
    errors: dict[str, float | None] = {
        "degrees_of_freedom": None,
        "scale": scale / math.sqrt(2 * count),
    }
    return errors if location is not None else {**errors, "location": scale / math.sqrt(count)}
