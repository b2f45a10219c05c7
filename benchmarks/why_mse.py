"""Why does a search for the least squared error of weights not give the best perplexity?

    python benchmarks/why_mse.py --formats nf4,e2m1,apot4+sp

Each line is one change to the weights of every linear layer, scored on the same windows:

absmax            scales from the largest magnitude
mse               scales of least squared error per block
mse, slope 1      the same, every row multiplied so that the regression of the quantized on the
                  original weights has slope 1: what shrank is put back
absmax, shrunk    absmax, every row multiplied by the slope that mse left
mse, top exact    mse, but the largest weights (by magnitude, a share of each row) as they were
absmax, top exact the same of absmax

The last columns are paired differences of the windows' mean negative log-likelihood to absmax.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from studentfloat.evaluate import (
    OriginalOutputs,
    cut_windows,
    load_text,
    paired_differences,
    score_windows,
)
from studentfloat.models import find_model, load_model, walk_weights
from studentfloat.quantize import Scheme, fake_quantize


def slope(after: Tensor, before: Tensor) -> Tensor:
    """Of the regression of quantized on original weights, per row."""
    dot = (after * before).sum(dim=-1, keepdim=True)
    return dot / before.square().sum(dim=-1, keepdim=True).clamp(min=1e-30)


def top_exact(after: Tensor, before: Tensor, share: float) -> Tensor:
    """`after`, but the largest weights of each row as they were before."""
    bound = torch.quantile(before.abs(), 1 - share, dim=-1, keepdim=True)
    return torch.where(before.abs() >= bound, before, after)


def variants(scheme: Callable[[str], Scheme], share: float) -> dict[str, Callable]:
    """Each a function of a weight matrix."""

    def rounded(weight: Tensor, rule: str) -> Tensor:
        return fake_quantize(weight, scheme(rule))[0]

    def restored(weight: Tensor) -> Tensor:
        after = rounded(weight, "mse")
        return after / slope(after, weight)

    def shrunk(weight: Tensor) -> Tensor:
        after = rounded(weight, "absmax")
        return after / slope(after, weight) * slope(rounded(weight, "mse"), weight)

    return {
        "absmax": lambda w: rounded(w, "absmax"),
        "mse": lambda w: rounded(w, "mse"),
        "mse, slope 1": restored,
        "absmax, shrunk": shrunk,
        "mse, top exact": lambda w: top_exact(rounded(w, "mse"), w, share),
        "absmax, top exact": lambda w: top_exact(rounded(w, "absmax"), w, share),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--formats", default="nf4,e2m1,apot4+sp")
    parser.add_argument("--block-size", type=int, default=128)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--length", type=int, default=384)
    parser.add_argument("--share", type=float, default=0.01)
    options = parser.parse_args()
    model = load_model(find_model(options.model))
    windows = cut_windows(load_text(), model, count=options.windows, length=options.length)
    original = OriginalOutputs(model, windows)
    sites, _ = walk_weights(model.module)
    before = [site.parameter.detach().clone() for site in sites]
    print(f"original: perplexity {np.exp(np.mean(original.nll)):.2f}")
    for name in options.formats.split(","):
        nll: dict[str, tuple[float, ...]] = {}

        def scheme(rule: str, name: str = name) -> Scheme:
            return Scheme(name, block_size=options.block_size, scale_rule=rule)

        for variant, change in variants(scheme, options.share).items():
            slopes, error, energy = [], 0.0, 0.0
            for site, weight in zip(sites, before, strict=True):
                matrix = site.matrix(weight)
                after = change(matrix)
                slopes.append(float(slope(after, matrix).mean()))
                error += float((after - matrix).double().square().sum())
                energy += float(matrix.double().square().sum())
                site.apply(lambda _, after=after: after)
            scores = score_windows(model, windows, original)
            for site, weight in zip(sites, before, strict=True):
                site.parameter.data.copy_(weight)
            nll[variant] = scores.nll
            line = (
                f"{name:10} {variant:18} error {error / energy:.5f}  slope {np.mean(slopes):.5f}  "
                f"KL {np.mean(scores.kl):.3f}  perplexity {np.exp(np.mean(scores.nll)):6.2f}"
            )
            if variant != "absmax":
                pair = {key: nll[key] for key in (variant, "absmax")}
                (it,) = paired_differences("nll", pair)
                line += f"  {it.difference:+.4f} [{it.low:+.4f}, {it.high:+.4f}]"
            print(line, flush=True)


if __name__ == "__main__":
    main()
