"""The best path through a trellis: every instruction set finds the reference's, and it is good."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from studentfloat.kernels.trellis import (
    decode_paths,
    encode_paths,
    reference_decode_paths,
    reference_encode_paths,
)


def drawn(state_bits: int) -> np.ndarray:
    table = np.random.default_rng(state_bits).normal(0, 37, 1 << state_bits)
    return np.clip(np.rint(table), -128, 127).astype(np.int8)


# The narrowest states of each width, and ones that a code does not divide.
SHAPES = [(1, 6), (1, 11), (2, 7), (2, 12), (3, 8), (3, 11), (4, 9), (4, 12)]


@pytest.mark.parametrize(("bits", "state_bits"), SHAPES)
@pytest.mark.parametrize("length", [2, 12, 33, 80])
def test_equals_the_reference(instructions: str, bits: int, state_bits: int, length: int) -> None:
    values = drawn(state_bits)
    # Heavy tails: some are beyond the values, some beyond what the costs can hold.
    numbers = np.random.default_rng(length).standard_t(2, (3, length)).astype(np.float32) * 60
    codes = encode_paths(numbers, values, bits, window=24)
    np.testing.assert_array_equal(codes, reference_encode_paths(numbers, values, bits, window=24))
    np.testing.assert_array_equal(
        decode_paths(codes, values, bits), reference_decode_paths(codes, values, bits)
    )


def windows(codes: np.ndarray, bits: int, state_bits: int) -> list[int]:
    """States as their definition has them: windows of a ring of bits that end with each code."""
    ring = [int(code) >> bit & 1 for code in codes for bit in range(bits)]
    ends = range(bits, len(ring) + 1, bits)
    return [
        sum(ring[end - state_bits + i] << i for i in range(state_bits)) for end in ends
    ]  # a negative place counts from the ring's end


@pytest.mark.parametrize(("bits", "state_bits"), [(1, 9), (2, 11), (3, 8), (4, 10)])
def test_a_state_is_a_window_of_the_ring(instructions: str, bits: int, state_bits: int) -> None:
    values = drawn(state_bits)
    codes = np.random.default_rng(5).integers(0, 1 << bits, (4, 24)).astype(np.uint8)
    expected = [values[windows(row, bits, state_bits)] for row in codes]
    np.testing.assert_array_equal(decode_paths(codes, values, bits), expected)


def test_no_stream_through_the_same_seam_is_closer() -> None:
    values = drawn(6)
    numbers = np.random.default_rng(1).normal(0, 37, (40, 14)).astype(np.float32)
    every = np.array(list(product((0, 1), repeat=14)), dtype=np.uint8)
    decoded = reference_decode_paths(every, values, 1).astype(np.float64)
    codes = encode_paths(numbers, values, 1)
    ratios = []
    for row, found in zip(numbers, codes, strict=True):
        errors = ((row - decoded) ** 2).sum(axis=1)
        own = errors[(every == found).all(axis=1)].item()
        same_seam = (every[:, -5:] == found[-5:]).all(axis=1)
        assert own <= errors[same_seam].min() + 14  # costs are rounded to 2 square units
        ratios.append(own / errors.min())
    # The first pass finds a good seam, if not always the best, even of rings this short.
    assert np.mean(ratios) < 1.25


def test_threads_do_not_matter_and_nothing_is_nothing(instructions: str) -> None:
    values = drawn(9)
    numbers = np.random.default_rng(2).normal(0, 37, (9, 40)).astype(np.float32)
    np.testing.assert_array_equal(
        encode_paths(numbers, values, 2, threads=1), encode_paths(numbers, values, 2, threads=3)
    )
    assert encode_paths(numbers[:0], values, 2).shape == (0, 40)
