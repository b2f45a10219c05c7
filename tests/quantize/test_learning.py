"""Learned codebooks: less error than what they began from, and as they are stored."""

from __future__ import annotations

import pytest
import torch

from studentfloat.errors import SchemeError
from studentfloat.quantize import Scheme, parse_method, quantize
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.learning import learn_codebooks, learn_row_tables
from studentfloat.quantize.pipeline import quantize_weight


def skewed(rows: int = 32, width: int = 128) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(rows, width, generator=generator)
    return torch.where(numbers > 0, numbers * 2, numbers.sign() * numbers.abs().sqrt())


def error(weight, quantized, weights=1.0) -> float:
    return float(((weight - quantized.dequantize()).square() * weights).sum())


@pytest.mark.parametrize("rule", ["absmax", "mse", "x2-mse"])
def test_more_codebooks_leave_less_error(rule) -> None:
    weight = skewed()
    scheme = Scheme("int4", 32, scale_rule=rule)
    spread = weight.square() if rule == "x2-mse" else 1.0
    errors = [error(weight, quantize(weight, scheme), spread)]
    for count in (1, 2, 4):
        learned = learn_codebooks(weight, scheme, count)
        assert len(learned.formats) == count
        assert all(max(map(abs, f.levels)) == 1 for f in learned.formats)
        errors.append(error(weight, quantize(weight, learned), spread))
    assert errors[1] < 0.9 * errors[0]
    if rule != "absmax":  # a scale that does not follow the levels leaves less to gain
        assert errors[3] < errors[2] < errors[1]


def test_weights_say_what_matters() -> None:
    weight = skewed()
    energy = torch.where(torch.arange(128) < 16, 100.0, 0.01)
    scheme = Scheme("nf4", 32, scale_rule="weighted-mse")
    heeding = quantize(weight, learn_codebooks(weight, scheme, weights=energy), weights=energy)
    plain = quantize(weight, scheme, weights=energy)
    assert error(weight, heeding, energy) < error(weight, plain, energy)


def test_row_tables_fit_their_rows() -> None:
    weight = skewed() * torch.linspace(0.5, 2, 32)[:, None]
    scheme = Scheme("nf4", 32)
    inputs = InputStatistics.empty_for(weight)
    inputs.add(torch.eye(128))
    result = quantize_weight(weight, scheme, parse_method("lloyd-row"), inputs).weight
    tables = result.base.row_tables
    assert tables.shape == (32, 16)
    assert torch.equal(tables, tables.sort(dim=1).values)
    assert error(weight, result) < 0.95 * error(weight, quantize(weight, scheme))
    assert result.bits == quantize(weight, scheme).bits + 32 * 16 * 16
    # Each number took the nearest of its own row's table.
    scaled = weight[5, :32] / result.base.block_scales()[5, 0]
    nearest = tables[5].float()[(scaled[:, None] - tables[5].float()).abs().argmin(dim=1)]
    torch.testing.assert_close(
        result.dequantize()[5, :32], nearest * result.base.block_scales()[5, 0]
    )
    with pytest.raises(SchemeError, match="tables per row take one format"):
        learn_row_tables(weight, Scheme("nf4|int4", 32))


@pytest.mark.parametrize("rule", ["absmax", "x2-mse"])
def test_what_is_learned_does_not_depend_on_the_unit(rule) -> None:
    weight, scheme = skewed(), Scheme("nf4", 32, scale_rule=rule)
    learned, tables = learn_codebooks(weight, scheme), learn_row_tables(weight, scheme)
    for unit in (2.0**100, 2.0**-100):
        assert learn_codebooks(weight * unit, scheme).formats == learned.formats
        assert torch.equal(learn_row_tables(weight * unit, scheme), tables)
    by_method = quantize_weight(weight * 1e30, scheme, parse_method("lloyd")).weight
    off = float((weight - by_method.dequantize() / 1e30).square().sum())
    assert off < 1.05 * error(weight, quantize(weight, learned))


def test_rows_of_any_size_learn_their_tables() -> None:
    sizes = 2.0 ** torch.linspace(-60, 60, 32).round()[:, None]
    scheme = Scheme("nf4", 32)
    assert torch.equal(
        learn_row_tables(skewed() * sizes, scheme), learn_row_tables(skewed(), scheme)
    )


def test_learned_codebooks_go_with_gptq() -> None:
    weight = skewed()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(300, 128, generator=generator) @ torch.randn(128, 128, generator=generator)
    inputs = InputStatistics.empty_for(x)
    inputs.add(x)
    scheme = Scheme("nf4", 32)
    errors = {}
    for method in ("gptq", "lloyd+gptq", "lloyd=2+gptq", "lloyd-row+gptq"):
        got = quantize_weight(weight, scheme, parse_method(method), inputs).weight
        errors[method] = inputs.output_energy(weight - got.dequantize())
    assert min(errors, key=errors.get) != "gptq"
    assert errors["lloyd=2+gptq"] < errors["gptq"]
