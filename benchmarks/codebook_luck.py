"""How much of a difference between two codebooks is luck?

    python benchmarks/codebook_luck.py [--format nf4] [--copies 6] [--jitter 0.003]

Rounding a model's weights is one draw. Copies of a format whose inner levels are moved by a
third of a percent of the range are as good as it is for any purpose; how far their KL spreads on
the same model and windows is what a difference between formats must exceed before it says more
than "on these weights". Runs `compare` on the copies.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np

from studentfloat.cli.progress import progress_on_stderr
from studentfloat.formats import Format, get_format, save_format
from studentfloat.study import CompareOptions, compare


def jittered(original: Format, size: float, seed: int) -> Format:
    """Move every level but zero and the extremes by a normal number of that size."""
    rng = np.random.default_rng(seed)
    reach = max(-original.minimum, original.maximum)
    fixed = {0.0, original.minimum, original.maximum}
    moved = [
        level if level in fixed else level + reach * size * rng.standard_normal()
        for level in original.levels
    ]
    return Format.from_values(moved, name=f"{original.name}-copy{seed}", bits=original.bits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", default="nf4")
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--jitter", type=float, default=0.003, help="share of the range")
    options = parser.parse_args()
    original = get_format(options.format)
    with tempfile.TemporaryDirectory() as scratch, progress_on_stderr() as progress:
        files = []
        for seed in range(options.copies):
            file = Path(scratch) / f"copy{seed}.toml"
            save_format(jittered(original, options.jitter, seed), file)
            files.append(str(file))
        result = compare(
            CompareOptions(
                formats=(options.format, *files), window_length=512, scale_dtype="float32"
            ),
            progress=progress,
        )
    for row in result.formats:
        print(
            f"{row.name:12} error {row.weight_nmse:.5f}  KL {row.kl:.4f} ± {row.kl_se:.4f}  "
            f"perplexity {row.perplexity:.2f}"
        )
    kl = [row.kl for row in result.formats if row.kl is not None]
    perplexity = [row.perplexity for row in result.formats if row.perplexity is not None]
    print(
        f"standard deviation over copies: KL {statistics.stdev(kl):.4f}, "
        f"perplexity {statistics.stdev(perplexity):.2f}"
    )


if __name__ == "__main__":
    main()
