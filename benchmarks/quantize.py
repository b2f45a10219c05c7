"""GB/s of float32 weights quantized to nearest, beside the paper's method and bitsandbytes.

    pip install 'studentfloat[models,benchmark]' && python benchmarks/quantize.py

Every method turns the same tensor into 4-bit codes and scales with NF4 and blocks of 64, in
one process, the calls taken in turn; the figures are medians over rounds, ratios of those
medians taken round by round, so that a drift of the machine's speed cancels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from studentfloat.formats import get_format
from studentfloat.quantize import Scheme, quantize

BLOCK = 64


def published(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The paper's way: scale by absmax, then one `where` per value of the format."""
    values = torch.tensor(get_format("nf4").levels)
    boundaries = (values[1:] + values[:-1]) / 2
    blocks = weight.view(-1, BLOCK)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    scaled = blocks / scales
    codes = torch.zeros_like(scaled)
    for i, boundary in enumerate(boundaries):
        codes = torch.where(scaled > boundary, torch.full_like(codes, i + 1), codes)
    return codes, scales


def bucketize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """torch's own search, one binary search per number."""
    values = torch.tensor(get_format("nf4").levels)
    blocks = weight.view(-1, BLOCK)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    return torch.bucketize(blocks / scales, (values[1:] + values[:-1]) / 2, out_int32=True), scales


def ours(weight: Tensor) -> object:
    """studentfloat: exact nearest, packed codes."""
    return quantize(weight, Scheme("nf4", block_size=BLOCK))


def methods() -> dict[str, Callable[[Tensor], object]]:
    found: dict[str, Callable[[Tensor], object]] = {
        "studentfloat": ours,
        "where per value (paper)": published,
        "torch bucketize": bucketize,
    }
    try:
        import bitsandbytes.functional as bnb
    except ImportError:
        print("bitsandbytes is not installed: pip install 'studentfloat[benchmark]'")
    else:
        found["bitsandbytes"] = lambda w: bnb.quantize_4bit(
            w, blocksize=BLOCK, quant_type="nf4", compress_statistics=False
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=4096, help="of a square float32 matrix")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weight = torch.randn(options.size, options.size, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {name: [] for name in methods()}
    for round_number in range(options.rounds + 1):
        for name, method in methods().items():
            started = time.perf_counter()
            method(weight)
            if round_number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    gigabytes = weight.numel() * 4 / 1e9
    rows = [
        {
            "method": name,
            "gb_per_s": gigabytes / statistics.median(times),
            "studentfloat_is_times_faster": statistics.median(
                theirs / mine for theirs, mine in zip(times, seconds["studentfloat"], strict=True)
            ),
        }
        for name, times in seconds.items()
    ]
    if options.json:
        print(json.dumps({"threads": options.threads, "block_size": BLOCK, "rows": rows}))
        return
    print(f"NF4, blocks of {BLOCK}, {options.size}×{options.size}, {options.threads} thread(s)")
    for row in rows:
        print(
            f"{row['method']:26} {row['gb_per_s']:8.3f} GB/s   studentfloat is "
            f"{row['studentfloat_is_times_faster']:6.2f} × as fast"
        )


if __name__ == "__main__":
    main()
