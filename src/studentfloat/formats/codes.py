"""Codes of more than one number by name: trellises, vectors; and any format by name or file."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from studentfloat.errors import FormatError
from studentfloat.formats.catalog import get_format
from studentfloat.formats.format import Format
from studentfloat.formats.trellis import Trellis
from studentfloat.formats.trellises import TRELLIS_PATTERN, TRELLISES, get_trellis
from studentfloat.formats.vectors import E8Lattice, Points, VectorFormat, fit_points

__all__ = [
    "CODES",
    "CODE_PATTERNS",
    "AnyFormat",
    "find_code",
    "get_code",
    "get_trellis",
    "get_vectors",
]

AnyFormat: TypeAlias = Format | Trellis | VectorFormat
"""Whatever rounds numbers: one at a time, a vector at a time, or a sequence."""

CODES = (*TRELLISES, "e8p", "e8p-e8p", "vq-d2-k256", "vq-d4-k256", "vq-d4-k256-k256")
"""The names that ``studentfloat formats`` lists below the scalar formats."""

CODE_PATTERNS = (TRELLIS_PATTERN, "vq-dD-kN[-kN...][-nuV]")

_VECTORS = re.compile(r"vq-d(\d+)((?:-k\d+)+)(?:-nu(\d+(?:\.\d+)?|inf))?")
_MOST_POINTS = 1 << 12
_VECTORS_A_POINT = 64

# Numbers of unit variance over this are what the lattice's points are closest to; for a second
# stage, in units of what the first has left. Measured, on a normal source.
_E8_SCALE = 0.97
_E8_LEAVES = 0.09  # of the variance


def get_code(name: str) -> AnyFormat:
    """Return the format or code of that name.

    Raises
    ------
    FormatError
        If nothing bears the name; the message suggests the nearest.
    """
    return find_code(name) or get_format(name)


def find_code(name: str) -> Trellis | VectorFormat | None:
    """Return the code of that name, or None if the name is not like one."""
    return get_trellis(name) or get_vectors(name)


@lru_cache(maxsize=32)
def get_vectors(name: str) -> VectorFormat | None:
    """Return the vector code of that name, or None if the name is not like one.

    Parameters
    ----------
    name
        ``e8p``: QuIP#'s lattice at 2 bits; ``e8p-e8p``: twice, at 4. ``vq-dD-kN``: N points of D
        dimensions, found by k-means for a normal source (``-nuV``: for a Student t of ν = V);
        each further ``-kN`` is a stage for what is left.
    """
    key = name.strip().lower()
    if key in ("e8p", "e8p-e8p"):
        return _lattice(key)
    match = _VECTORS.fullmatch(key)
    if not match:
        return None
    dimension, counts = int(match[1]), [int(count) for count in match[2].split("-k")[1:]]
    if not 2 <= dimension <= 8:
        raise FormatError(f"{name!r} has {dimension} dimensions: 2 to 8")
    for count in counts:
        if not 2 <= count <= _MOST_POINTS:
            raise FormatError(f"{name!r} has a stage of {count} points: 2 to {_MOST_POINTS}")
    nu = float(match[3] or math.inf)
    if not nu > 2:
        raise FormatError(f"{name!r}: a Student t of ν = {match[3]} has no variance: ν above 2")
    left = _source(_VECTORS_A_POINT * max(counts), dimension, nu)
    stages: list[Points] = []
    for count in counts:
        stages.append(fit_points(left, count))
        left = left - stages[-1].look_up(stages[-1].nearest(left))
    law = "a normal" if math.isinf(nu) else f"t with ν = {match[3]}"
    return VectorFormat(
        key,
        tuple(stages),
        (1.0,) * len(stages),
        description=f"k-means in {dimension} dimensions, for {law}",
        source="VPTQ, arXiv 2409.17066; Lloyd 1982",
    )


def _lattice(name: str) -> VectorFormat:
    stages = name.count("e8p")
    left = math.sqrt(_E8_LEAVES)
    return VectorFormat(
        name,
        (E8Lattice(),) * stages,
        tuple(round(_E8_SCALE * left**stage, 4) for stage in range(stages)),
        description=f"the lattice E8 + 1/4, {stages} of 2**16 points",
        source="QuIP#, arXiv 2402.04396",
    )


def _source(count: int, dimension: int, degrees_of_freedom: float) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(0)
    if math.isinf(degrees_of_freedom):
        return random.standard_normal((count, dimension), dtype=np.float32)
    numbers = random.standard_t(degrees_of_freedom, (count, dimension))
    return (numbers / math.sqrt(degrees_of_freedom / (degrees_of_freedom - 2))).astype(np.float32)
