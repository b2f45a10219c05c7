"""Five laws fitted to one distribution by maximum likelihood, and which of them it follows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

from studentfloat.errors import DataError
from studentfloat.statistics.goodness import anderson_darling, kolmogorov_smirnov, vuong_p_value
from studentfloat.statistics.laws import GeneralizedNormal, Laplace, Law, Logistic, Normal, StudentT
from studentfloat.statistics.newton import Maximum, golden_section, maximize
from studentfloat.statistics.sketch import Cells, Sketch
from studentfloat.statistics.student import fit_student_t_to_cells, least_nu

__all__ = ["LAWS", "Fit", "Fits", "fit_laws", "fit_student_t"]

Floats: TypeAlias = npt.NDArray[np.float64]

LAWS = ("student_t", "normal", "laplace", "generalized_normal", "logistic")

_MOST_ZEROS = 0.25
_FEWEST_CELLS = 8
_LARGEST = 1e150
_SIGNIFICANT = 0.05
_LEAST_LOG_SHAPE, _GREATEST_LOG_SHAPE = math.log(0.05), math.log(60.0)


@dataclass(frozen=True)
class Fit:
    """One law at its most likely parameters.

    Attributes
    ----------
    law
        With its parameters.
    log_likelihood
        Mean per sample, nats.
    aic
        Akaike's criterion of all samples, ``2 k - 2 n log_likelihood``.
    ks, anderson_darling
        Distances between the numbers and the law; A² is per sample.
    standard_errors
        By parameter; None where it has none (ν at infinity).
    interval
        Of ν: 95 %, by profile likelihood. None for the other laws.
    """

    law: Law
    log_likelihood: float
    aic: float
    ks: float
    anderson_darling: float
    standard_errors: dict[str, float | None]
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Fits:
    """All laws on one distribution.

    Attributes
    ----------
    count
        Numbers that the laws were fitted to.
    by_law
        A :class:`Fit` for each name in :data:`LAWS`.
    best
        The law of least AIC; between equals the one of fewer parameters.
    runner_up, best_p_value
        The next best, and how likely so great a lead is if neither were better: a
        likelihood-ratio test where one law contains the other, Vuong's otherwise.
    notes
        What a reader must know, such as zeros left out.
    cells
        What the fits saw, pooled.
    """

    count: int
    by_law: dict[str, Fit]
    best: str
    runner_up: str
    best_p_value: float
    notes: tuple[str, ...]
    cells: Cells

    @property
    def best_is_significant(self) -> bool:
        """Whether the best law's lead is more than chance, at 5 %."""
        return self.best_p_value < _SIGNIFICANT


def fit_student_t(data: Sketch | npt.ArrayLike, *, location: float | None = 0.0) -> Fit:
    """Fit Student's t alone.

    Parameters
    ----------
    data
        A :class:`Sketch`, or floating-point numbers of any shape.
    location
        Where the center is known to be; None to fit it.

    Raises
    ------
    DataError
        If there is nothing to fit a law to.

    Examples
    --------
    >>> import numpy as np
    >>> fit = fit_student_t(np.random.default_rng(0).standard_t(5, 100_000))
    >>> round(fit.law.degrees_of_freedom, 1)
    5.0
    """
    work = _Work.of(data, location)
    return work.fit_student_t()


def fit_laws(
    data: Sketch | npt.ArrayLike,
    *,
    location: float | None = 0.0,
    laws: tuple[str, ...] = LAWS,
) -> Fits:
    """Fit each law, and say which describes the numbers best.

    Parameters
    ----------
    data
        A :class:`Sketch`, or floating-point numbers of any shape.
    location
        Where the center is known to be; None to fit it.
    laws
        Which to fit: two or more of :data:`LAWS`.

    Raises
    ------
    DataError
        If there is nothing to fit a law to: no numbers, one, all alike, a handful of values.
    """
    work = _Work.of(data, location)
    by_law = {name: work.fit(name) for name in laws}
    order = sorted(laws, key=lambda name: (by_law[name].aic, LAWS.index(name) != 1))
    best, runner_up = order[0], order[1]
    notes = list(work.notes)
    least = least_nu(work.near)
    if "student_t" in by_law and _nu(by_law["student_t"]) <= least:
        notes.append(f"tails heavier than those of t with ν = {least:.3g}, the least tried")
    return Fits(
        count=work.count,
        by_law=by_law,
        best=best,
        runner_up=runner_up,
        best_p_value=_p_value(work, by_law[best], by_law[runner_up]),
        notes=tuple(notes),
        cells=work.cells,
    )


@dataclass(frozen=True)
class _Work:
    """Cells made ready: all of them, those of the distances from a known center, and few."""

    cells: Cells
    near: Cells
    coarse: Cells
    location: float | None
    median: float
    notes: tuple[str, ...]

    @property
    def count(self) -> int:
        return int(self.cells.total)

    @classmethod
    def of(cls, data: Sketch | npt.ArrayLike, location: float | None) -> _Work:
        sketch = data if isinstance(data, Sketch) else Sketch.of(data)
        notes = _check(sketch)
        cells = sketch.cells()
        if sketch.zeros > _MOST_ZEROS * sketch.count:
            notes.append(
                f"{100 * sketch.zeros / sketch.count:.1f} % of the values are exactly zero: "
                "the laws describe the others"
            )
            cells = cells.without_zeros()
        low, median, high = cells.quantile([0.25, 0.5, 0.75])
        around = float(median) if location is None else location
        spread = float(high - low) or math.sqrt(float(cells.count @ cells.square) / cells.total)
        pooled = cells.pooled(around, spread)
        if pooled.count.size < _FEWEST_CELLS:
            raise DataError(
                f"only {pooled.count.size} values can be told apart among {sketch.count}: "
                "no continuous law describes them"
            )
        near = cells.folded().pooled(0.0, spread, 1024) if location == 0.0 else pooled
        coarse = pooled.pooled(around, spread, 128)
        return cls(pooled, near, coarse, location, float(median), tuple(notes))

    def fit(self, name: str) -> Fit:
        fitters: dict[str, Callable[[], Fit]] = {
            "student_t": self.fit_student_t,
            "normal": self._fit_normal,
            "laplace": self._fit_laplace,
            "generalized_normal": self._fit_generalized_normal,
            "logistic": self._fit_logistic,
        }
        if name not in fitters:
            raise DataError(f"unknown law {name!r}: known are {', '.join(LAWS)}")
        return fitters[name]()

    def fit_student_t(self) -> Fit:
        found = fit_student_t_to_cells(self.near, self.location, self.median)
        return self._report(
            found.law, found.log_likelihood, found.standard_errors, 2, found.interval
        )

    def _fit_normal(self) -> Fit:
        weight = self.near.count / self.near.total
        location = self._mean() if self.location is None else self.location
        scale = math.sqrt(
            float(weight @ self.near.square) + location * (location - 2 * self._mean())
        )
        errors = {"scale": scale / math.sqrt(2 * self.count)}
        if self.location is None:
            errors["location"] = scale / math.sqrt(self.count)
        value = -0.5 * math.log(2 * math.pi * scale**2) - 0.5
        return self._report(Normal(location, scale), value, errors, 1)

    def _fit_laplace(self) -> Fit:
        location = self.median if self.location is None else self.location
        scale = float(self._weight @ np.abs(self.cells.mean - location))
        error = scale / math.sqrt(self.count)
        errors = (
            {"scale": error} if self.location is not None else {"scale": error, "location": error}
        )
        return self._report(Laplace(location, scale), -math.log(2 * scale) - 1, errors, 1)

    def _fit_logistic(self) -> Fit:
        location = self.median if self.location is None else self.location
        unit = math.sqrt(float(self._weight @ (self.cells.mean - location) ** 2))
        free = self.location is None
        weight, mean = self._weight, self.cells.mean

        def objective(parameters: Floats) -> tuple[float, Floats, Floats]:
            scale = unit * math.exp(parameters[0])
            at = parameters[1] * unit if free else location
            z = (mean - at) / scale
            slope = np.tanh(z / 2)
            bend = (1 - slope**2) / 2
            value = float(weight @ Logistic(at, scale).logpdf(mean))
            by_scale = float(weight @ (z * slope)) - 1
            by_scale2 = -float(weight @ (z * slope)) - float(weight @ (z**2 * bend))
            if not free:
                return value, np.array([by_scale]), np.array([[by_scale2]])
            ratio = unit / scale
            by_place = ratio * float(weight @ slope)
            by_place2 = -(ratio**2) * float(weight @ bend)
            cross = -ratio * float(weight @ (slope + z * bend))
            return (
                value,
                np.array([by_scale, by_place]),
                np.array([[by_scale2, cross], [cross, by_place2]]),
            )

        start = [math.log(math.sqrt(3) / math.pi), location / unit]
        found = maximize(objective, start if free else start[:1])
        scale = unit * math.exp(found.at[0])
        at = float(found.at[1]) * unit if free else location
        variance = np.diag(np.linalg.inv(-found.hessian)) / self.count
        errors = {"scale": scale * math.sqrt(variance[0])}
        if free:
            errors["location"] = unit * math.sqrt(variance[1])
        return self._report(Logistic(at, scale), found.value, errors, 1)

    def _fit_generalized_normal(self) -> Fit:
        location = self.location
        if location is None:
            # The likelihood has a corner in the location (for β <= 1): no derivative is asked for.
            low, high = self.cells.quantile([0.3, 0.7])
            location = golden_section(
                lambda at: self._generalized_normal_at(at).value, low, high, 1e-6 * (high - low)
            )
        found = self._generalized_normal_at(location)
        shape, scale = (math.exp(parameter) for parameter in found.at)
        variance = np.diag(np.linalg.inv(-found.hessian)) / self.count
        errors: dict[str, float | None] = {
            name: size * math.sqrt(v) if v > 0 else None
            for name, size, v in zip(("shape", "scale"), (shape, scale), variance, strict=True)
        }
        if self.location is None:
            errors["location"] = self._generalized_normal_location_error(shape, scale)
        return self._report(GeneralizedNormal(location, scale, shape), found.value, errors, 2)

    def _generalized_normal_at(self, location: float) -> Maximum:
        """The most likely (log β, log α) for a center."""
        distance = np.abs(self.cells.mean - location)
        weight = self._weight[distance > 0]
        log_distance = np.log(distance[distance > 0])

        def objective(parameters: Floats) -> tuple[float, Floats, Floats]:
            shape = math.exp(min(max(parameters[0], _LEAST_LOG_SHAPE), _GREATEST_LOG_SHAPE))
            log_z = log_distance - parameters[1]
            power = weight * np.exp(np.minimum(shape * log_z, 700.0))
            sums = float(power.sum()), float(power @ log_z), float(power @ log_z**2)
            inverse = 1 / shape
            digamma = float(special.digamma(inverse)) * inverse
            value = math.log(shape / 2) - parameters[1] - math.lgamma(inverse) - sums[0]
            gradient = np.array([1 + digamma - shape * sums[1], shape * sums[0] - 1])
            trigamma = float(special.zeta(2, inverse)) * inverse**2
            bend = -digamma - trigamma - shape * sums[1] - shape**2 * sums[2]
            cross = shape * sums[0] + shape**2 * sums[1]
            return value, gradient, np.array([[bend, cross], [cross, -(shape**2) * sums[0]]])

        middle = float(weight @ np.exp(log_distance))
        return maximize(objective, [math.log(1.5), math.log(1.3 * middle)])

    def _generalized_normal_location_error(self, shape: float, scale: float) -> float | None:
        """From the information about the location, β² Γ(2-1/β) / (α² Γ(1/β)), where β > 1."""
        if shape <= 1:
            return None
        ratio = math.exp(math.lgamma(1 / shape) - math.lgamma(2 - 1 / shape))
        return scale / shape * math.sqrt(ratio / self.count)

    @property
    def _weight(self) -> Floats:
        return self.cells.count / self.cells.total

    def _mean(self) -> float:
        return float(self._weight @ self.cells.mean)

    def _report(
        self,
        law: Law,
        value: float,
        errors: dict[str, float | None] | dict[str, float],
        parameters: int,
        interval: tuple[float, float] | None = None,
    ) -> Fit:
        free = parameters + (self.location is None)
        return Fit(
            law=law,
            log_likelihood=value,
            aic=2 * free - 2 * self.count * value,
            ks=kolmogorov_smirnov(self.cells, law),
            anderson_darling=anderson_darling(self.coarse, law),
            standard_errors=dict(errors),
            interval=interval,
        )


def _check(sketch: Sketch) -> list[str]:
    """Refuse what no law can be fitted to; the notes that the rest deserves."""
    if sketch.count == 0:
        bad = sketch.nans + sketch.infinities
        raise DataError(f"no finite values ({bad} NaN or infinite)" if bad else "no values")
    if sketch.count == 1:
        raise DataError(f"one value only ({sketch.minimum:g}): a law needs many")
    if sketch.minimum == sketch.maximum:
        what = "zero" if sketch.minimum == 0 else f"{sketch.minimum:g}"
        raise DataError(f"all {sketch.count} values are {what}: no law describes a constant")
    largest = max(abs(sketch.minimum), abs(sketch.maximum))
    if largest > _LARGEST:
        raise DataError(f"values up to {largest:g}: their squares leave the range of float64")
    notes = []
    if sketch.nans or sketch.infinities:
        notes.append(f"{sketch.nans} NaN and {sketch.infinities} infinite values left out")
    return notes


def _p_value(work: _Work, best: Fit, other: Fit) -> float:
    """How likely the lead of `best` is under the null that it is no better than `other`."""
    pair = {best.law.name, other.law.name}
    gain = max(2 * work.count * (best.log_likelihood - other.log_likelihood), 0.0)
    if pair == {"student_t", "normal"}:
        # ν = ∞ is an end of its range: half of the mass of the statistic is at 0.
        return float(special.chdtrc(1, gain)) / 2 if gain > 0 else 1.0
    if pair in ({"generalized_normal", "normal"}, {"generalized_normal", "laplace"}):
        return float(special.chdtrc(1, gain))
    return vuong_p_value(work.cells, best.law, other.law)


def _nu(fit: Fit) -> float:
    assert isinstance(fit.law, StudentT)
    return fit.law.degrees_of_freedom
