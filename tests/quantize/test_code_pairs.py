from __future__ import annotations

import numpy as np
import pytest
import torch

from studentfloat.errors import DataError
from studentfloat.quantize.code_pairs import count_code_pairs


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(2, 2), (3, 5)])
def test_counts_against_every_product_one_by_one(weight_bits, activation_bits) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randint(0, 1 << weight_bits, (5, 7), generator=generator, dtype=torch.uint8)
    entered = torch.randint(0, 1 << activation_bits, (6, 7), generator=generator, dtype=torch.uint8)
    expected = np.zeros((1 << weight_bits, 1 << activation_bits))
    for row in weight.tolist():
        for token in entered.tolist():
            for w, x in zip(row, token, strict=True):
                expected[w, x] += 1
    found = count_code_pairs(
        weight, entered, weight_bits=weight_bits, activation_bits=activation_bits
    )
    np.testing.assert_array_equal(found.numpy(), expected)


def test_channels_must_match() -> None:
    with pytest.raises(DataError, match="7 input channels do not meet activations of 6"):
        count_code_pairs(
            torch.zeros(2, 7, dtype=torch.uint8), torch.zeros(2, 6, dtype=torch.uint8),
            weight_bits=1, activation_bits=1,
        )  # fmt: skip
