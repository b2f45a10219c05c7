"""Products with packed weights in Triton, for GPUs: written, interpreted on a CPU, not measured.

Nobody has run this on a GPU yet, so nothing uses it by itself: packed layers on a GPU dequantize
and multiply. Call :func:`packed_matmul` to try it. The tests run it in Triton's interpreter
(``TRITON_INTERPRET=1``) against the readable reference.
"""

# No `from __future__ import annotations`: Triton reads annotations as they stand.

from typing import Any

from studentfloat.errors import DataError, MissingDependencyError

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "triton is not installed: pip install triton (it comes with CUDA builds of torch)"
    ) from error

__all__ = ["packed_dequantize", "packed_matmul"]

_ROWS, _COLUMNS, _INNER = 16, 64, 64


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _weights(  # type: ignore[no-untyped-def]
    codes, scales, table, n, k, rows, columns, width, blocks, block_size, bits: tl.constexpr
):
    """A tile of the matrix, of shape (len(k), len(n)): value times scale, zero outside."""
    inside = (n[None, :] < rows) & (k[:, None] < columns)
    first = k * bits
    byte = n[None, :].to(tl.int64) * width + (first // 8)[:, None]
    low = tl.load(codes + byte, mask=inside, other=0).to(tl.int32)
    # A code of three bits may reach into the next byte.
    spills = inside & ((first % 8)[:, None] + bits > 8)
    high = tl.load(codes + byte + 1, mask=spills, other=0).to(tl.int32)
    code = ((low | (high << 8)) >> (first % 8)[:, None]) & ((1 << bits) - 1)
    value = tl.load(table + code, mask=inside, other=0.0)
    where = n[None, :].to(tl.int64) * blocks + (k // block_size)[:, None]
    return value * tl.load(scales + where, mask=inside, other=0.0)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _multiply(  # type: ignore[no-untyped-def]
    x,
    codes,
    scales,
    table,
    out,
    count,
    rows,
    columns,
    width,
    blocks,
    block_size,
    bits: tl.constexpr,
    tile_m: tl.constexpr,
    tile_n: tl.constexpr,
    tile_k: tl.constexpr,
):
    m = tl.program_id(0) * tile_m + tl.arange(0, tile_m)
    n = tl.program_id(1) * tile_n + tl.arange(0, tile_n)
    total = tl.zeros((tile_m, tile_n), dtype=tl.float32)
    for start in range(0, columns, tile_k):
        k = start + tl.arange(0, tile_k)
        inside = (m[:, None] < count) & (k[None, :] < columns)
        a = tl.load(x + m[:, None].to(tl.int64) * columns + k[None, :], mask=inside, other=0.0)
        b = _weights(codes, scales, table, n, k, rows, columns, width, blocks, block_size, bits)
        total += tl.dot(a.to(tl.float32), b, input_precision="ieee")
    inside = (m[:, None] < count) & (n[None, :] < rows)
    tl.store(out + m[:, None].to(tl.int64) * rows + n[None, :], total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _dequantize(  # type: ignore[no-untyped-def]
    codes,
    scales,
    table,
    out,
    rows,
    columns,
    width,
    blocks,
    block_size,
    bits: tl.constexpr,
    tile_n: tl.constexpr,
    tile_k: tl.constexpr,
):
    n = tl.program_id(0) * tile_n + tl.arange(0, tile_n)
    k = tl.program_id(1) * tile_k + tl.arange(0, tile_k)
    tile = _weights(codes, scales, table, n, k, rows, columns, width, blocks, block_size, bits)
    inside = (n[None, :] < rows) & (k[:, None] < columns)
    tl.store(out + n[None, :].to(tl.int64) * columns + k[:, None], tile, mask=inside)


def packed_matmul(
    x: Any, packed: Any, scales: Any, table: Any, *, block_size: int, bits: int = 4
) -> Any:
    """Multiply activations by a packed matrix: ``x @ W.T``.

    Parameters
    ----------
    x
        torch tensor of shape ``(..., in_features)``, float32, float16 or bfloat16.
    packed
        uint8, of shape ``(out_features, ceil(in_features * bits / 8))``, low code first.
    scales
        float32, of shape ``(out_features, ceil(in_features / block_size))``.
    table
        float32, of shape ``(2**bits,)``: the value of each code.
    block_size
        Numbers of a row that share a scale.
    bits
        Of a code: 2 to 8.

    Returns
    -------
    Tensor
        Of shape ``(..., out_features)`` and the type of `x`; sums are in float32.

    Raises
    ------
    DataError
        If shapes do not fit.
    """
    columns = x.shape[-1]
    _check(packed, scales, columns, block_size, bits)
    flat = x.reshape(-1, columns).contiguous()
    # Of the scales' type, float32, and on their device.
    out = scales.new_empty((len(flat), len(packed)))
    grid = (triton.cdiv(len(flat), _ROWS), triton.cdiv(len(packed), _COLUMNS))
    _multiply[grid](
        *(flat, packed.contiguous(), scales.contiguous(), table.contiguous(), out),
        *(len(flat), len(packed), columns, packed.shape[1], scales.shape[1], block_size),
        bits=bits,
        tile_m=_ROWS,
        tile_n=_COLUMNS,
        tile_k=_INNER,
    )
    return out.reshape(*x.shape[:-1], len(packed)).to(x.dtype)


def packed_dequantize(
    packed: Any, scales: Any, table: Any, *, in_features: int, block_size: int, bits: int = 4
) -> Any:
    """The matrix as float32 numbers, of shape ``(out_features, in_features)``.

    Parameters are those of :func:`packed_matmul`.
    """
    _check(packed, scales, in_features, block_size, bits)
    out = scales.new_empty((len(packed), in_features))
    grid = (triton.cdiv(len(packed), _COLUMNS), triton.cdiv(in_features, _INNER))
    _dequantize[grid](
        *(packed.contiguous(), scales.contiguous(), table.contiguous(), out),
        *(len(packed), in_features, packed.shape[1], scales.shape[1], block_size),
        bits=bits,
        tile_n=_COLUMNS,
        tile_k=_INNER,
    )
    return out


def _check(packed: Any, scales: Any, columns: int, block_size: int, bits: int) -> None:
    width, blocks = -(-columns * bits // 8), -(-columns // block_size)
    wanted = (len(packed), width), (len(packed), blocks)
    if (tuple(packed.shape), tuple(scales.shape)) != wanted:
        raise DataError(
            f"codes of shape {tuple(packed.shape)} and scales of shape {tuple(scales.shape)} do "
            f"not fit {columns} columns in blocks of {block_size}: {wanted[0]} and {wanted[1]} do"
        )
