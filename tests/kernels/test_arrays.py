"""Large new arrays, in memory that earlier ones have left."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from studentfloat.kernels import arrays
from studentfloat.kernels.arrays import address, empty_like
from studentfloat.kernels.dispatch import native
from studentfloat.quantize import Scheme, quantize

MEGABYTE = 1 << 20
LIMIT = 256 * MEGABYTE  # what is kept at most, native/pool.cpp
needs_compiled = pytest.mark.skipif(native() is None, reason="no compiled kernels")


@pytest.fixture(autouse=True)
def pool():
    """Begin and end with nothing kept."""
    module = native()
    if module is not None:
        module.clear_pool()
    yield module
    if module is not None:
        module.clear_pool()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "uint8"])
@pytest.mark.parametrize("shape", [(3, 5), (2048, 4099), (0, 7)])
def test_kind_and_shape(dtype, shape) -> None:
    new = empty_like(torch.zeros(1), shape, dtype)
    assert new.dtype == getattr(torch, dtype)
    assert tuple(new.shape) == shape
    assert new.is_contiguous()
    new.fill_(3)
    assert bool((new == 3).all())
    if dtype != "bfloat16":
        other = empty_like(np.zeros(1), shape, dtype)
        assert other.dtype == dtype
        assert other.shape == shape
        other[...] = 3
        assert (other == 3).all()


@needs_compiled
def test_memory_is_used_again_and_only_when_free(pool) -> None:
    first = empty_like(torch.zeros(1), (8 * MEGABYTE,), "uint8")
    where = address(first, "it")
    second = empty_like(torch.zeros(1), (8 * MEGABYTE,), "uint8")
    assert address(second, "it") != where
    part = first[100:200]
    part.fill_(7)
    del first
    # A view holds all of it.
    third = empty_like(torch.zeros(1), (8 * MEGABYTE,), "uint8")
    third.fill_(1)
    assert address(third, "it") != where
    assert bool((part == 7).all())
    del part
    fourth = empty_like(np.zeros(1), (2 * MEGABYTE,), "float32")
    assert address(fourth, "it") == where


@needs_compiled
def test_much_smaller_ones_leave_a_large_one_alone(pool) -> None:
    large = empty_like(torch.zeros(1), (64 * MEGABYTE,), "uint8")
    where = address(large, "it")
    del large
    small = empty_like(torch.zeros(1), (8 * MEGABYTE,), "uint8")
    assert address(small, "it") != where
    half = empty_like(torch.zeros(1), (40 * MEGABYTE,), "uint8")
    assert address(half, "it") == where


@needs_compiled
def test_what_is_kept_has_a_limit(pool) -> None:
    arrays_ = [empty_like(torch.zeros(1), (48 * MEGABYTE,), "uint8") for _ in range(8)]
    arrays_.append(empty_like(torch.zeros(1), (2 * LIMIT,), "uint8"))
    del arrays_
    kept = pool.clear_pool()
    assert LIMIT - 48 * MEGABYTE <= kept <= LIMIT
    assert pool.clear_pool() == 0


@needs_compiled
def test_threads_get_memory_of_their_own(pool) -> None:
    failed = []

    def work(number: int) -> None:
        for _ in range(40):
            mine = empty_like(np.zeros(1), (5 * MEGABYTE,), "uint8")
            mine[::4096] = number
            if not (mine[::4096] == number).all():
                failed.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_results_live_on_their_own(monkeypatch) -> None:
    # As if every array were large.
    monkeypatch.setattr(arrays, "_LARGE", 0)
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    quantized = quantize(weight, Scheme("sf4", 64))
    first = quantized.dequantize()
    expected = first.clone()
    again = [quantized.dequantize() for _ in range(3)]
    assert all(torch.equal(a, expected) for a in again)
    copy = pickle.loads(pickle.dumps(first))
    for other in again:
        other.zero_()
    assert torch.equal(first, expected)
    assert torch.equal(copy, expected)


@needs_compiled
def test_arrays_may_outlive_the_interpreter() -> None:
    program = """
import numpy as np
from studentfloat.kernels.arrays import empty_like
class Keep: pass
Keep.forever = empty_like(np.zeros(1), (1 << 23,), "uint8")
Keep.forever[...] = 1
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
