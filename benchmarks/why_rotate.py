"""Why does a rotation help GPTQ, and not rounding to nearest?

    python benchmarks/why_rotate.py --formats int4,nf4 --blocks 6

For linear layers of the first blocks, on inputs of the unquantized model; means over layers:

weight    squared error of the weight over its energy
output    squared error of the layer's output over its energy
meets     how much input energy the errors meet: tr(E H E^T) over |E|^2 tr(H) / n. Errors that
          have nothing to do with the inputs have 1
kurtosis  of the numbers in a block divided by its root mean square, less 3: 0 for normal ones
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from statistics import fmean

import torch
from torch import Tensor

from studentfloat.models import Calibration, find_model, load_model, walk_weights
from studentfloat.models.blocks import BlockRunner, find_blocks
from studentfloat.models.listen import listen
from studentfloat.quantize import Scheme, parse_method
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.pipeline import quantize_weight

METHODS = ("rtn", "rotate", "rotate=64", "gptq", "rotate+gptq", "rotate=64+gptq")


def layers(name: str, blocks: int, windows: int) -> Iterator[tuple[Tensor, InputStatistics]]:
    """Matrices of the first blocks, and what the unquantized model feeds them with."""
    model = load_model(find_model(name))
    sites, _ = walk_weights(model.module)
    found = find_blocks(model.module, {id(site.parameter) for site in sites})
    tokens = Calibration(windows=windows).cut(model).batches(torch.device("cpu"))
    runner = BlockRunner(model.module, found, tokens)
    for i, (_, block) in enumerate(runner.blocks[:blocks]):
        inside = {id(parameter) for parameter in block.parameters()}
        its = [site for site in sites if id(site.parameter) in inside]
        heard = listen(model.module, its, runner.run(i))
        for site in its:
            yield site.matrix(site.parameter.detach()), heard.statistics[site.name]
        runner.advance(i)


def measure(weight: Tensor, inputs: InputStatistics, scheme: Scheme, method: str) -> list[float]:
    """The four numbers of the table for one layer."""
    got = quantize_weight(weight, scheme, parse_method(method), inputs).weight
    error = got.dequantize() - weight
    size = float(error.square().sum())
    output = inputs.output_energy(error)
    spread = size * float(inputs.energy.mean())
    numbers = weight
    for part in got.transforms:
        numbers = part.absorb(numbers)
    blocks = numbers.reshape(-1, int(scheme.block_size))
    blocks = blocks / blocks.square().mean(dim=1, keepdim=True).sqrt()
    return [
        size / float(weight.square().sum()),
        output / inputs.output_energy(weight),
        output / spread,
        float(blocks.pow(4).mean()) - 3,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--formats", default="int4,nf4")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--windows", type=int, default=8)
    options = parser.parse_args()
    kept = list(layers(options.model, options.blocks, options.windows))
    weights = [inputs.output_energy(w) / float(w.square().sum()) for w, inputs in kept]
    means = [float(inputs.energy.mean()) for _, inputs in kept]
    meets = fmean(a / b for a, b in zip(weights, means, strict=True))
    print(f"{len(kept)} layers; the weights themselves meet {meets:.3f}")
    print(f"{'format':>10} {'method':>16} {'weight':>8} {'output':>8} {'meets':>7} {'kurtosis':>9}")
    for name in options.formats.split(","):
        scheme = Scheme(name, 64, scale_dtype="bfloat16")
        for method in METHODS:
            rows = [measure(weight, inputs, scheme, method) for weight, inputs in kept]
            weight, output, met, kurtosis = (fmean(column) for column in zip(*rows, strict=True))
            numbers = f"{weight:>8.5f} {output:>8.5f} {met:>7.3f} {kurtosis:>9.3f}"
            print(f"{name:>10} {method:>16} {numbers}", flush=True)


if __name__ == "__main__":
    main()
