"""Packed layers whose weights bear what methods add, beside the plain layer and a dense matrix.

    python benchmarks/extras.py

Everything runs in one process on one thread, the calls taken in random order, in processor time;
figures are medians, ratios medians of ratios within a round. Weights are cold: every call takes the
next of several copies. A layer is called as a model calls it, and makes a new output.
"dequantized per call" is what a layer does that has no kernel.
"""

from __future__ import annotations

import argparse
import time

import torch
from products import COLD_BYTES, Call, measure, report
from torch import Tensor, nn

from studentfloat.kernels import instruction_set
from studentfloat.models.packed.packing import Packing
from studentfloat.models.packed.tensor import PackedTensor
from studentfloat.quantize import LowRank, QuantizedWeight, Scheme, quantize
from studentfloat.quantize.corrections import set_aside
from studentfloat.quantize.stored import StoredWeight

ARITHMETICS = {
    "int8": (torch.bfloat16, "int8"),
    "bfloat16": (torch.bfloat16, None),
    "float32": (torch.float32, None),
}
INT8 = Scheme("int8", block_size="row", scale_dtype="bfloat16")


def weights(size: int, block: int, share: float, rank: int) -> dict[str, QuantizedWeight]:
    """A random matrix with one extra each; how good a correction is does not matter here."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(size, size, generator=generator)
    keep = torch.rand(size, size, generator=generator) < share
    left, right = torch.randn(size, rank), torch.randn(rank, size)
    outliers = set_aside(numbers, keep)

    def base(formats: str) -> QuantizedWeight:
        scheme = Scheme(formats, block_size=block, scale_dtype="bfloat16")
        return QuantizedWeight(quantize(numbers, scheme))

    plain = base("sf4").base
    short = LowRank(left.bfloat16(), right.bfloat16())
    narrow = LowRank(quantize(left, INT8), quantize(right, INT8))
    return {
        "plain": QuantizedWeight(plain),
        f"outliers={share:g}": QuantizedWeight(plain, (outliers,)),
        f"rank={rank}": QuantizedWeight(plain, (short,)),
        f"rank8={rank}": QuantizedWeight(plain, (narrow,)),
        f"rank={rank}+outliers={share:g}": QuantizedWeight(plain, (short, outliers)),
        "two formats to choose from": base("e2m1+sp|e2m1+sr"),
        "four formats to choose from": base("e2m1+sp|e2m1+sr|nf4|sf4"),
    }


def layer_of(weight: QuantizedWeight) -> nn.Linear:
    """A layer of its own memory."""
    parts = {suffix: part.clone() for suffix, part in weight.tensors().items()}
    packing = Packing(StoredWeight.of(weight, weight.shape), parts)
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=False, device="meta")
    packed = PackedTensor.of(packing, torch.get_default_dtype())
    layer.weight = nn.Parameter(packed, requires_grad=False)
    return layer


def calls(
    made: dict[str, QuantizedWeight], x: Tensor, arithmetic: str, copies: int
) -> dict[str, Call]:
    """Every layer, and the slow way for the one with outliers."""
    found: dict[str, Call] = {}
    for start, (name, weight) in enumerate(made.items()):
        layers = [layer_of(weight) for _ in range(copies)]
        for layer in layers:
            layer.weight.packing.compute = ARITHMETICS[arithmetic][1]
        # Each begins at another copy.
        found[name] = lambda i, its=layers, at=start: its[(i + at) % copies](x)
    layer = layer_of(made[next(name for name in made if name.startswith("outliers"))])
    found["outliers, dequantized per call"] = lambda i: nn.functional.linear(
        x, layer.weight.packing.dense(x.dtype)
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--columns", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--arithmetic", nargs="*", choices=ARITHMETICS, default=list(ARITHMETICS))
    parser.add_argument("--outliers", type=float, default=0.01)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=6, help="a table, about")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = options.size
    made = weights(size, options.block, options.outliers, options.rank)
    copies = max(2, -(-COLD_BYTES * 2 // size**2 // len(made)))
    print(f"{size} x {size}, blocks of {options.block}, one thread, {instruction_set()}")
    with torch.inference_mode():
        for arithmetic in options.arithmetic:
            for count in options.columns:
                generator = torch.Generator().manual_seed(1)
                x = torch.randn(count, size, generator=generator).to(ARITHMETICS[arithmetic][0])
                found = calls(made, x, arithmetic, copies)
                times = measure(found, 200, options.seconds, time.process_time, copies=copies)
                report(f"{arithmetic}, {count} columns", times, "plain")


if __name__ == "__main__":
    main()
