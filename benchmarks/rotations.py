"""Time of rotating a layer's inputs, beside the product that they then enter.

python benchmarks/rotations.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product

import torch

from studentfloat.kernels import instruction_set
from studentfloat.kernels.hadamard import Rotation
from studentfloat.quantize import Scheme, quantize
from studentfloat.quantize.rotation import rotate

DTYPES = (torch.float32, torch.bfloat16)


def least(call: Callable[[], object], seconds: float = 0.5) -> float:
    """Least time of a call, in microseconds."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return 1e6 * best


def times(rows: int, width: int, dtype: torch.dtype, columns: int) -> tuple[float, float]:
    """Of a rotation, and of a product."""
    weight = quantize(torch.randn(rows, width), Scheme("nf4", 64, scale_dtype="bfloat16"))
    matrix, rotation = weight.packed_matrix(), Rotation(width, width)
    x = torch.randn(columns, width).to(dtype)
    return least(lambda: rotate(x, rotation)), least(lambda: matrix.matmul(x))


def main() -> None:
    print(f"{instruction_set()}, {torch.get_num_threads()} threads; µs")
    print(f"{'matrix':>14} {'type':>8} {'columns':>8} {'rotation':>9} {'product':>9} {'share':>6}")
    shapes = ((576, 576), (576, 1536), (4096, 4096), (4096, 11008), (4096, 14336))
    for (rows, width), dtype, columns in product(shapes, DTYPES, (1, 64)):
        turned, multiplied = times(rows, width, dtype, columns)
        name = str(dtype).removeprefix("torch.")
        print(
            f"{rows:>6} x {width:>5} {name:>8} {columns:>8} {turned:>9.1f} {multiplied:>9.1f} "
            f"{turned / multiplied:>6.1%}"
        )


if __name__ == "__main__":
    main()
