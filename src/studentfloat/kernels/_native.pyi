"""What native/module.cpp offers. Addresses are of contiguous arrays that the caller has checked."""

import numpy as np
import numpy.typing as npt

def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def use_instruction_set(name: str) -> bool: ...
def thread_source() -> str: ...
def encode(
    thresholds: int,
    codes: int,
    levels: int,
    bits: int,
    rule: int,
    maximum: float,
    minimum: float,
    peak: float,
    scale_type: int,
    rounds_away: bool,
    numbers: int,
    rows: int,
    columns: int,
    block_size: int,
    packed: int,
    scales: int,
    threads: int,
) -> bool: ...
def decode(
    packed: int,
    scales: int,
    table: int,
    bits: int,
    rows: int,
    columns: int,
    block_size: int,
    type: int,
    out: int,
    threads: int,
) -> None: ...
def rotate(
    x: int,
    rows: int,
    width: int,
    block: int,
    order: int,
    factor: int,
    signs: int,
    inverse: bool,
    threads: int,
) -> None: ...
def sketch_range(values: int, count: int) -> tuple[int, int, int, float, float]: ...
def sketch_tally(
    values: int,
    count: int,
    fraction_bits: int,
    first: int,
    width: int,
    counts: int,
    fractions: int,
) -> None: ...
def trellis_encode(
    values: int,
    bits: int,
    state_bits: int,
    numbers: int,
    count: int,
    length: int,
    window: int,
    codes: int,
    threads: int,
) -> None: ...
def trellis_decode(
    values: int,
    bits: int,
    state_bits: int,
    codes: int,
    count: int,
    length: int,
    out: int,
    threads: int,
) -> None: ...
def nearest_points(
    vectors: int,
    vectors_count: int,
    points: int,
    half_squares: int,
    count: int,
    dimension: int,
    found: int,
    threads: int,
) -> None: ...
def pooled_bytes(size: int) -> npt.NDArray[np.uint8]: ...
def clear_pool() -> int: ...
def read(bytes: int, count: int, threads: int) -> int: ...

class Sparse:
    def __init__(
        self,
        rows: int,
        columns: int,
        starts: int,
        positions: int,
        wide: bool,
        values: int,
    ) -> None: ...
    def add(self, transposed: bool, x: int, count: int, out: int, threads: int) -> None: ...

class LowRank:
    def __init__(
        self,
        rows: int,
        columns: int,
        rank: int,
        type: int,
        left: int,
        right: int,
        left_scales: int,
        right_scales: int,
    ) -> None: ...
    def add(self, x: int, count: int, out: int, threads: int) -> None: ...

class Matrix:
    def __init__(
        self,
        packed: int,
        scales: int,
        tables: int,
        tables_int8: int,
        int8_steps: int,
        count: int,
        selectors: int,
        rows: int,
        columns: int,
        block_size: int,
        bits: int,
    ) -> None: ...
    def multiply(
        self,
        x: int,
        x_is_bfloat16: bool,
        count: int,
        out: int,
        arithmetic: int,
        threads: int,
    ) -> None: ...
    def multiply_and_add(
        self,
        x: int,
        x_is_bfloat16: bool,
        count: int,
        out: int,
        arithmetic: int,
        threads: int,
        sparse: Sparse | None,
        low_rank: LowRank | None,
    ) -> None: ...
    def dequantize(self, first: int, last: int, type: int, out: int, threads: int) -> None: ...
    def unpack(self, packed: int) -> None: ...
    def unpack_scales(self, scales: int) -> None: ...
    def unpack_selectors(self, selectors: int) -> None: ...
    @property
    def bytes(self) -> int: ...
