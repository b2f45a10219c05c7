"""Orthogonal transforms that spread every number over all others, for the cost of a few sums.

A run of n = m p numbers, p a power of two, goes to ``(x * signs) (A ⊗ H) / sqrt(n)``: random
signs, then Sylvester's Hadamard matrix H of order p, and a Hadamard matrix A of order m (12,
20, 28, 36 ...). Where no such A is known, A is Hartley's matrix of cosines and sines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from studentfloat.errors import ConfigError
from studentfloat.kernels.arrays import Array, address
from studentfloat.kernels.dispatch import native

__all__ = ["Rotation", "hadamard_matrix", "hartley_matrix", "random_signs"]

Floats = npt.NDArray[np.floating[Any]]

# The largest dense factors. A Hadamard matrix is a multiple of 4 times the odd part, so that beyond
# some order Hartley's is worth having for its price; beyond 1024 either costs what a layer does.
_LARGEST_HADAMARD = 256
_LARGEST_FACTOR = 1024
_GOLDEN = 0x9E3779B97F4A7C15
_LARGEST_SEED = 2**63 - 1
_PER_THREAD = 1 << 16


@dataclass(frozen=True)
class Rotation:
    """An orthogonal matrix R of order `width`, block diagonal; rows of numbers go to ``x R``.

    Attributes
    ----------
    width
        Numbers in a row.
    block
        Numbers that are mixed with each other: `width`, or a power of two that divides it.
    seed
        Of the signs: at least 0, below 2⁶³.

    Raises
    ------
    ConfigError
        If width and block do not fit, or need a dense factor of order above 1024.

    Examples
    --------
    >>> Rotation(576, 576).order, Rotation(576, 64).order
    (36, 1)
    """

    width: int
    block: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise ConfigError(f"rotation seed {self.seed}: at least 0, below 2**63")
        if self.block < 1 or self.width % self.block:
            raise ConfigError(
                f"a rotation in blocks of {self.block} does not fit a width of {self.width}"
            )
        _factor(self.block)

    @property
    def is_hadamard(self) -> bool:
        """Whether all entries of a block have the same magnitude."""
        return _factor(self.block)[1]

    @cached_property
    def signs(self) -> npt.NDArray[np.float32]:
        """Of shape ``(width,)``: -1 or 1."""
        return random_signs(self.width, self.seed).astype(np.float32)

    @cached_property
    def factor(self) -> npt.NDArray[np.float32]:
        """A, not normalized: of shape ``(order, order)``, ``A A^T = order I``."""
        return self._factor_matrix().astype(np.float32)

    def matrix(self) -> npt.NDArray[np.float64]:
        """R, dense: of shape ``(width, width)``. For tests and for looking at."""
        block = np.kron(self._factor_matrix(), _sylvester(self.block // self.order))
        blocks = np.kron(np.eye(self.width // self.block), block / math.sqrt(self.block))
        matrix: npt.NDArray[np.float64] = random_signs(self.width, self.seed)[:, None] * blocks
        return matrix

    def _factor_matrix(self) -> npt.NDArray[Any]:
        return hadamard_matrix(self.order) if self.is_hadamard else hartley_matrix(self.order)

    def apply(self, rows: Array, *, inverse: bool = False, threads: int = 1) -> bool:
        """Rotate rows in place by the compiled kernel.

        Parameters
        ----------
        rows
            float32, contiguous, in main memory, of shape ``(..., width)``.
        inverse
            Multiply by the transpose of R instead.

        Returns
        -------
        bool
            False where there is no compiled kernel; then nothing has changed.
        """
        module = native()
        if module is None:
            return False
        count = math.prod(rows.shape) // self.width
        # Many threads for few rows would cost more than they save.
        threads = min(threads, max(1, count * self.width // _PER_THREAD))
        there, back, signs = self._addresses
        module.rotate(
            address(rows, "rows"),
            count,
            self.width,
            self.block,
            self.order,
            back if inverse else there,
            signs,
            inverse,
            threads,
        )
        return True

    @cached_property
    def order(self) -> int:
        """Order of the dense factor A; 1 where there is none."""
        return _factor(self.block)[0]

    @cached_property
    def _addresses(self) -> tuple[int, int, int]:
        """Where both factors and the signs lie, which live as long as this does."""
        there, back = self._factors
        return address(there, "factor"), address(back, "factor"), address(self.signs, "signs")

    @cached_property
    def _factors(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """What a column of m numbers is multiplied by from the left: there, and back."""
        return np.ascontiguousarray(self.factor.T), np.ascontiguousarray(self.factor)


def random_signs(width: int, seed: int) -> npt.NDArray[np.int8]:
    """Signs, -1 or 1, that a seed stands for: the highest bits of SplitMix64's first numbers.

    References
    ----------
    Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    state = np.uint64(seed) + np.arange(1, width + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return np.where(state >> np.uint64(63), -1, 1).astype(np.int8)


@lru_cache(maxsize=64)
def hadamard_matrix(order: int) -> npt.NDArray[np.int8]:
    """A Hadamard matrix by Paley's constructions: ±1, ``A A^T = order I``.

    Raises
    ------
    ConfigError
        If neither construction has one of this order.

    References
    ----------
    Paley, "On orthogonal matrices", J. Math. Phys. 12, 1933, constructions I and II.
    """
    if order in (1, 2):
        return _sylvester(order).astype(np.int8)
    power = _prime_power(order - 1) if order % 4 == 0 else None
    if power is not None:
        # I: I + S, S skew-symmetric with zeros on the diagonal.
        return (_bordered(_jacobsthal(*power), -1) + np.eye(order, dtype=np.int8)).astype(np.int8)
    power = _prime_power(order // 2 - 1) if order % 4 == 0 else None
    if power is None or (order // 2 - 1) % 4 != 1:
        raise ConfigError(f"no Hadamard matrix of order {order} by Paley's constructions")
    # II: of a symmetric S with zeros on the diagonal, in blocks of 2 x 2.
    symmetric = _bordered(_jacobsthal(*power), 1)
    corner = np.array([[1, 1], [1, -1]], dtype=np.int8)
    diagonal = np.array([[1, -1], [-1, -1]], dtype=np.int8)
    blocks = np.kron(symmetric, corner) + np.kron(np.eye(order // 2, dtype=np.int8), diagonal)
    return blocks.astype(np.int8)


@lru_cache(maxsize=64)
def hartley_matrix(order: int) -> npt.NDArray[np.float64]:
    """Of entries cos + sin of 2π j k / order: symmetric, ``A A = order I``, for any order.

    References
    ----------
    Bracewell, "Discrete Hartley transform", J. Opt. Soc. Am. 73(12), 1983.
    """
    angles = np.outer(np.arange(order), np.arange(order)) % order * (2 * np.pi / order)
    matrix: npt.NDArray[np.float64] = np.cos(angles) + np.sin(angles)
    return matrix


@lru_cache(maxsize=256)
def _factor(width: int) -> tuple[int, bool]:
    """Order of the dense factor of a width, and whether it is a Hadamard matrix."""
    odd = width // (width & -width)
    if odd == 1:
        return 1, True
    order = 4 * odd
    while width % order == 0 and order <= _LARGEST_HADAMARD:
        if _has_paley(order):
            return order, True
        order *= 2
    if odd > _LARGEST_FACTOR:
        raise ConfigError(
            f"a width of {width} = {odd} x {width // odd} has an odd factor above "
            f"{_LARGEST_FACTOR}: rotate in blocks of {width & -width} or fewer"
        )
    return odd, False


def _has_paley(order: int) -> bool:
    one = _prime_power(order - 1) is not None
    return one or ((order // 2 - 1) % 4 == 1 and _prime_power(order // 2 - 1) is not None)


def _sylvester(order: int) -> npt.NDArray[np.int64]:
    matrix = np.ones((1, 1), dtype=np.int64)
    while len(matrix) < order:
        matrix = np.kron(np.array([[1, 1], [1, -1]]), matrix)
    return matrix


def _prime_power(number: int) -> tuple[int, int] | None:
    """(p, k) of ``p**k`` with k up to 3; None for other numbers."""
    for exponent in (1, 2, 3):
        prime = round(number ** (1 / exponent))
        if prime > 2 and prime**exponent == number and _is_prime(prime):
            return prime, exponent
    return None


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, math.isqrt(number) + 1))


def _jacobsthal(prime: int, exponent: int) -> npt.NDArray[np.int8]:
    """χ(a - b) over the field of ``prime**exponent`` elements: 1 for squares, -1 else, 0 for 0."""
    elements = np.array(list(product(range(prime), repeat=exponent)), dtype=np.int64)
    places = prime ** np.arange(exponent)[::-1]
    character = np.full(prime**exponent, -1, dtype=np.int8)
    character[_squares(elements, prime) @ places] = 1
    character[0] = 0
    differences = (elements[:, None, :] - elements[None, :, :]) % prime
    matrix: npt.NDArray[np.int8] = character[differences @ places]
    return matrix


def _squares(elements: npt.NDArray[np.int64], prime: int) -> npt.NDArray[np.int64]:
    """The squares of polynomials (highest power first), modulo an irreducible one."""
    count, degree = elements.shape
    if degree == 1:
        return elements**2 % prime
    # Of degree 2 or 3: irreducible if it has no root.
    points = np.arange(prime)
    lower = next(
        c
        for c in product(range(prime), repeat=degree)
        if all((points**degree + np.polyval(c, points)) % prime)
    )
    squares = np.zeros((count, 2 * degree - 1), dtype=np.int64)
    for i in range(degree):
        for j in range(degree):
            squares[:, i + j] += elements[:, i] * elements[:, j]
    for i in range(degree - 1):
        for j in range(degree):
            squares[:, i + 1 + j] -= squares[:, i] * lower[j]
        squares %= prime
    return squares[:, degree - 1 :] % prime


def _bordered(core: npt.NDArray[np.int8], sign: int) -> npt.NDArray[np.int8]:
    """With a first row of ones and a first column of `sign`, and 0 in the corner."""
    size = len(core) + 1
    matrix = np.ones((size, size), dtype=np.int8)
    matrix[1:, 1:] = core
    matrix[1:, 0] = sign
    matrix[0, 0] = 0
    return matrix
