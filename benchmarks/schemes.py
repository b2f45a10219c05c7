"""What one scheme and method after another does to a model: for exploring, one line each.

    python benchmarks/schemes.py nf4:64:bfloat16:mse:rtn bos4-nu11-b64:64:bfloat16:mse:lloyd=4

Each argument is format:block size:scale type:scale rule:method; a rule p1, p3 ... is a search
weighted by that power of the magnitude. Six windows of 512 tokens are scored, unless told.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from studentfloat.evaluate import OriginalOutputs, cut_windows, load_text, score_windows
from studentfloat.models import Calibration, find_model, load_model, quantize_model
from studentfloat.quantize import Scheme
from studentfloat.quantize.scheme import ScaleRule


def scheme_of(spec: str) -> tuple[Scheme, str]:
    """The scheme and the method of one argument."""
    name, block, dtype, rule, method = spec.split(":")
    chosen: ScaleRule | str = rule
    if rule[:1] == "p" and rule[1:].isdigit():
        chosen = ScaleRule(rule, "", signed=True, searches=True, magnitude_power=float(rule[1:]))
    return Scheme(name, block, scale_rule=chosen, scale_dtype=dtype), method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("specs", nargs="+")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--calibration-windows", type=int, default=16)
    options = parser.parse_args()
    model = load_model(find_model(options.model))
    windows = cut_windows(load_text(), model, count=options.windows, length=options.length)
    original = OriginalOutputs(model, windows)
    state = {name: value.clone() for name, value in model.module.state_dict().items()}
    calibration = Calibration(windows=options.calibration_windows)
    for spec in options.specs:
        scheme, method = scheme_of(spec)
        model.module.load_state_dict(state)
        started = time.perf_counter()
        result = quantize_model(model, scheme, method, calibration)
        seconds = time.perf_counter() - started
        scores = score_windows(model, windows, original)
        error = np.mean([record.weight_nmse for record in result.records])
        print(
            f"{spec:56} {result.bits_per_weight:.3f} bits  KL {np.mean(scores.kl):.4f}  "
            f"perplexity {np.exp(np.mean(scores.nll)):.2f}  weight error {error:.5f}  "
            f"{seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
