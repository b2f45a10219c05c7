"""Fits and sketches as records."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from studentfloat.records import Histogram, LawFit, LawFits, QuantilePairs
from studentfloat.statistics.fits import Fit, Fits
from studentfloat.statistics.goodness import quantile_pairs
from studentfloat.statistics.laws import GeneralizedNormal, StudentT
from studentfloat.statistics.sketch import Sketch

__all__ = ["histogram_of", "quantiles_of", "record_of", "shape_of"]

_PER_UNIT = 64
_QUANTILES = 41


def record_of(fits: Fits) -> LawFits:
    """Fits of all laws as a record."""
    laws = {name: _law(fit) for name, fit in fits.by_law.items()}
    return LawFits(
        count=fits.count,
        **laws,
        best=fits.best,
        runner_up=fits.runner_up,
        best_p_value=fits.best_p_value,
        best_is_significant=fits.best_is_significant,
        ks_difference=laws["normal"].ks - laws["student_t"].ks,
        notes=fits.notes,
    )


def _law(fit: Fit) -> LawFit:
    law = fit.law
    return LawFit(
        scale=law.scale,
        ks=fit.ks,
        anderson_darling=fit.anderson_darling,
        log_likelihood=fit.log_likelihood,
        aic=fit.aic,
        location=law.location,
        degrees_of_freedom=law.degrees_of_freedom if isinstance(law, StudentT) else None,
        degrees_of_freedom_interval=fit.interval,
        shape=law.shape if isinstance(law, GeneralizedNormal) else None,
        standard_errors=fit.standard_errors,
    )


def shape_of(sketch: Sketch) -> dict[str, float]:
    """Mean, root mean square and excess kurtosis of what a sketch has seen."""
    cells = sketch.cells()
    weight = cells.count / cells.total
    mean = float(weight @ cells.mean)
    square = float(weight @ cells.square)
    shape = {"mean": mean, "root_mean_square": math.sqrt(square)}
    variance = square - mean**2
    if variance > 1e-6 * square:  # below that the cells are too wide to tell
        with np.errstate(over="ignore"):
            shape["excess_kurtosis"] = float(weight @ (cells.mean - mean) ** 4) / variance**2 - 3
    return shape


def histogram_of(sketch: Sketch) -> Histogram:
    """A histogram to draw and to derive codebooks from, in units of the root mean square."""
    cells = sketch.cells()
    unit = math.sqrt(float(cells.count @ cells.square) / cells.total)
    place = np.floor(np.arcsinh(cells.mean / unit) * _PER_UNIT).astype(np.int64)
    first = int(place[0])
    counts = np.bincount(place - first, weights=cells.count)
    return Histogram(unit, _PER_UNIT, first, tuple(int(n) for n in counts))


def quantiles_of(fits: Fits) -> QuantilePairs:
    """Q-Q points against the t and the normal law, in units of the root mean square."""
    unit = math.sqrt(float(fits.cells.count @ fits.cells.square) / fits.cells.total)
    by_t, numbers = quantile_pairs(fits.cells, fits.by_law["student_t"].law, _QUANTILES)
    by_normal, _ = quantile_pairs(fits.cells, fits.by_law["normal"].law, _QUANTILES)
    return QuantilePairs(*(_rounded(part / unit) for part in (numbers, by_t, by_normal)))


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)
