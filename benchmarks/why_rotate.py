"""Why does a rotation help GPTQ and even steps, and not a format with its levels near zero?

    python benchmarks/why_rotate.py --formats int4,nf4 --methods rtn,rotate --blocks 3

For linear layers of the first blocks, on inputs of the unquantized model; means by kind of layer:

weight    squared error of the weight over its energy
output    squared error of the layer's output over its energy
loud      mean squared error of the weights of the hundredth of the inputs that has the most
          energy, over that of all
kurtosis  of the numbers in a block divided by its root mean square, less 3: 0 for normal ones

The first lines tell how large the weights of these inputs are: their mean square over that of all.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from statistics import fmean

import torch
from torch import Tensor

from studentfloat.models import Calibration, find_model, load_model, walk_weights
from studentfloat.models.blocks import BlockRunner, find_blocks
from studentfloat.models.listen import listen
from studentfloat.quantize import Scheme, parse_method
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.pipeline import quantize_weight

Layer = tuple[str, Tensor, InputStatistics]


def layers(name: str, blocks: int, windows: int) -> Iterator[Layer]:
    """Kind and matrix of each linear layer of the first blocks, and what it is fed with."""
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
            yield site.role, site.matrix(site.parameter.detach()), heard.statistics[site.name]
        runner.advance(i)


def loud(squares: Tensor, inputs: InputStatistics) -> float:
    """Mean square in the columns of the hundredth of the inputs with the most energy, over all."""
    columns = squares.mean(dim=0)
    most = inputs.energy.topk(max(1, len(columns) // 100)).indices
    return float(columns[most].mean() / columns.mean())


def measure(weight: Tensor, inputs: InputStatistics, scheme: Scheme, method: str) -> list[float]:
    """The four numbers of the table for one layer."""
    got = quantize_weight(weight, scheme, parse_method(method), inputs).weight
    error = got.dequantize() - weight
    numbers = weight
    for part in got.transforms:
        numbers = part.absorb(numbers)
    blocks = numbers.reshape(-1, int(scheme.block_size))
    blocks = blocks / blocks.square().mean(dim=1, keepdim=True).sqrt()
    return [
        float(error.square().sum() / weight.square().sum()),
        inputs.output_energy(error) / inputs.output_energy(weight),
        loud(error.square(), inputs),
        float(blocks.pow(4).mean()) - 3,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--formats", default="int4,nf4")
    parser.add_argument("--methods", default="rtn,rotate,gptq,rotate+gptq")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--windows", type=int, default=2)
    options = parser.parse_args()
    kept: dict[str, list[tuple[Tensor, InputStatistics]]] = {}
    for kind, weight, inputs in layers(options.model, options.blocks, options.windows):
        kept.setdefault(kind, []).append((weight, inputs))
    for kind, group in kept.items():
        size = fmean(loud(weight.square(), inputs) for weight, inputs in group)
        print(f"{kind:>10} {'itself':>31} {size:>17.2f}", flush=True)
    print(f"{'layers':>10} {'format':>14} {'method':>16} weight   output   loud   kurtosis")
    for name, method in product(options.formats.split(","), options.methods.split(",")):
        scheme = Scheme(name, 64, scale_dtype="bfloat16")
        for kind, group in kept.items():
            rows = [measure(weight, inputs, scheme, method) for weight, inputs in group]
            size, output, spread, tails = (fmean(column) for column in zip(*rows, strict=True))
            numbers = f"{size:.5f} {output:.5f} {spread:>6.2f} {tails:>8.2f}"
            print(f"{kind:>10} {name:>14} {method:>16} {numbers}", flush=True)


if __name__ == "__main__":
    main()
