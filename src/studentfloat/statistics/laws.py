"""Five symmetric laws as values: density, distribution function and quantiles.

Each is a ``Distribution`` as the codebooks of :mod:`studentfloat.formats` take one. They exist
beside SciPy's own because those spend most of a call on checking arguments, and because
an Anderson-Darling distance needs both tails of a law to all their digits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

__all__ = ["GeneralizedNormal", "Laplace", "Law", "Logistic", "Normal", "StudentT"]

Floats: TypeAlias = npt.NDArray[np.float64]

_LEAST = 1e-300


@dataclass(frozen=True)
class Law(ABC):
    """A law of location and scale, symmetric about its location.

    Attributes
    ----------
    location, scale
        In the unit of the numbers.
    """

    name: ClassVar[str]

    location: float
    scale: float

    def standardized(self, x: npt.ArrayLike) -> Floats:
        """``(x - location) / scale``."""
        return (np.asarray(x, dtype=np.float64) - self.location) / self.scale

    def logpdf(self, x: npt.ArrayLike) -> Floats:
        """Logarithm of the density."""
        return self._log_density(self.standardized(x)) - math.log(self.scale)

    def pdf(self, x: npt.ArrayLike) -> Floats:
        """Density."""
        return np.exp(self.logpdf(x))

    def sf(self, x: npt.ArrayLike) -> Floats:
        """Probability above x."""
        return self.cdf(2 * self.location - np.asarray(x, dtype=np.float64))

    def cdf(self, x: npt.ArrayLike) -> Floats:
        """Probability up to x; keeps its digits where it is small."""
        z = self.standardized(x)
        tail = self._tail(np.abs(z))
        return np.where(z > 0, 1 - tail, tail)

    def log_probabilities(self, x: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Logarithms of the probabilities up to x and above it, small ones to their digits."""
        z = self.standardized(x)
        log_tail = self._log_tail(np.abs(z))
        log_rest = np.log1p(-np.exp(log_tail))
        return np.where(z > 0, log_rest, log_tail), np.where(z > 0, log_tail, log_rest)

    def isf(self, q: npt.ArrayLike) -> Floats:
        """The number that is exceeded with probability q."""
        p = np.asarray(q, dtype=np.float64)
        z = self._tail_quantile(np.minimum(p, 1 - p))
        return self.location + self.scale * np.where(p < 0.5, z, -z)

    def ppf(self, p: npt.ArrayLike) -> Floats:
        """Quantile function."""
        return 2 * self.location - self.isf(p)

    def var(self) -> float:
        """Variance; infinite where the tail is too heavy for one (Student's t, ν ≤ 2)."""
        return self.scale**2 * self._variance()

    @abstractmethod
    def _variance(self) -> float:
        """Variance of the standardized law."""

    @abstractmethod
    def _log_density(self, z: Floats) -> Floats: ...

    @abstractmethod
    def _tail(self, z: Floats) -> Floats:
        """Probability above z >= 0, of the standardized law."""

    def _log_tail(self, z: Floats) -> Floats:
        """Logarithm of :meth:`_tail`; laws whose tail underflows have a better way."""
        return np.log(np.maximum(self._tail(z), _LEAST))

    @abstractmethod
    def _tail_quantile(self, q: Floats) -> Floats:
        """Inverse of :meth:`_tail`, for q in (0, 1/2]."""


@dataclass(frozen=True)
class StudentT(Law):
    """Student's t, density ∝ ``(1 + z²/ν)^(-(ν+1)/2)``; ν = ``inf`` is the normal law.

    References
    ----------
    Student, Biometrika 6(1), 1908; NIST DLMF 8.17 for the incomplete beta function.
    """

    name: ClassVar[str] = "student_t"

    degrees_of_freedom: float = math.inf

    def _variance(self) -> float:
        nu = self.degrees_of_freedom
        if math.isinf(nu):
            return 1.0
        return nu / (nu - 2) if nu > 2 else math.inf

    def _log_density(self, z: Floats) -> Floats:
        nu = self.degrees_of_freedom
        if math.isinf(nu):
            return _log_normal_density(z)
        return log_t_constant(nu) - (nu + 1) / 2 * np.log1p(z**2 / nu)

    def _tail(self, z: Floats) -> Floats:
        if math.isinf(self.degrees_of_freedom):
            return np.asarray(special.ndtr(-z))
        return np.asarray(special.stdtr(self.degrees_of_freedom, -z))

    def _tail_quantile(self, q: Floats) -> Floats:
        if math.isinf(self.degrees_of_freedom):
            return np.asarray(-special.ndtri(q))
        return np.asarray(-special.stdtrit(self.degrees_of_freedom, q))


@dataclass(frozen=True)
class Normal(Law):
    """The normal law; `scale` is the standard deviation."""

    name: ClassVar[str] = "normal"

    def _variance(self) -> float:
        return 1.0

    def _log_density(self, z: Floats) -> Floats:
        return _log_normal_density(z)

    def _tail(self, z: Floats) -> Floats:
        return np.asarray(special.ndtr(-z))

    def _log_tail(self, z: Floats) -> Floats:
        return np.asarray(special.log_ndtr(-z))

    def _tail_quantile(self, q: Floats) -> Floats:
        return np.asarray(-special.ndtri(q))


@dataclass(frozen=True)
class Laplace(Law):
    """The Laplace law, density ``exp(-|z|) / 2``."""

    name: ClassVar[str] = "laplace"

    def _variance(self) -> float:
        return 2.0

    def _log_density(self, z: Floats) -> Floats:
        return -np.abs(z) - math.log(2)

    def _tail(self, z: Floats) -> Floats:
        return np.exp(-z) / 2

    def _log_tail(self, z: Floats) -> Floats:
        return -z - math.log(2)

    def _tail_quantile(self, q: Floats) -> Floats:
        return np.asarray(-np.log(2 * q))


@dataclass(frozen=True)
class GeneralizedNormal(Law):
    """The generalized normal law, density ∝ ``exp(-|z|^β)``: β = 1 Laplace, 2 normal.

    References
    ----------
    Subbotin, Mat. Sb. 31(2), 1923; Nadarajah, J. Appl. Stat. 32(7), 2005.
    """

    name: ClassVar[str] = "generalized_normal"

    shape: float = 2.0

    def _variance(self) -> float:
        return math.exp(math.lgamma(3 / self.shape) - math.lgamma(1 / self.shape))

    def _log_density(self, z: Floats) -> Floats:
        constant = math.log(self.shape / 2) - math.lgamma(1 / self.shape)
        return constant - np.abs(z) ** self.shape

    def _tail(self, z: Floats) -> Floats:
        return np.asarray(special.gammaincc(1 / self.shape, z**self.shape) / 2)

    def _tail_quantile(self, q: Floats) -> Floats:
        power = np.asarray(special.gammainccinv(1 / self.shape, 2 * q), dtype=np.float64)
        return np.asarray(power ** (1 / self.shape))


@dataclass(frozen=True)
class Logistic(Law):
    """The logistic law, density ``exp(-z) / (1 + exp(-z))²``."""

    name: ClassVar[str] = "logistic"

    def _variance(self) -> float:
        return math.pi**2 / 3

    def _log_density(self, z: Floats) -> Floats:
        magnitude = np.abs(z)
        return np.asarray(-magnitude - 2 * np.log1p(np.exp(-magnitude)))

    def _tail(self, z: Floats) -> Floats:
        return np.asarray(special.expit(-z))

    def _log_tail(self, z: Floats) -> Floats:
        return np.asarray(special.log_expit(-z))

    def _tail_quantile(self, q: Floats) -> Floats:
        return np.asarray(-special.logit(q))


def log_t_constant(nu: float) -> float:
    """Logarithm of the t density at zero: ``Γ((ν+1)/2) / (Γ(ν/2) √(πν))``."""
    # beta(1/2, ν/2) keeps the digits that the difference of two log-gammas loses.
    return float(-special.betaln(0.5, nu / 2) - 0.5 * math.log(nu))


def _log_normal_density(z: Floats) -> Floats:
    return -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
