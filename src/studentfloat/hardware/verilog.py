"""Small helpers that write Verilog-2001 text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Port", "literal", "module", "place", "signed_literal", "vector"]

Port = tuple[str, str, int | str]
"""Direction (with ``reg`` or ``signed`` where it applies), name, width in bits or by parameter."""


def vector(width: int | str) -> str:
    """``[7:0]`` and a space for 8 bits, nothing for one bit, ``[N-1:0]`` for a parameter N."""
    if isinstance(width, str):
        return f"[{width}-1:0] "
    return f"[{width - 1}:0] " if width > 1 else ""


def literal(value: int, width: int) -> str:
    """A sized binary or, from 9 bits on, hexadecimal constant."""
    if width <= 8:
        return f"{width}'b{value & (1 << width) - 1:0{width}b}"
    return f"{width}'h{value & (1 << width) - 1:x}"


def signed_literal(value: int, width: int) -> str:
    """A sized signed decimal constant, such as ``-8'sd12``.

    The most negative number has no positive twin of its width and is written in hexadecimal.
    """
    if value == -(1 << (width - 1)):
        return f"{width}'sh{1 << (width - 1):x}"
    return f"{'-' if value < 0 else ''}{width}'sd{abs(value)}"


def place(pieces: Sequence[tuple[int, str]], shift: int, width: int) -> str:
    """Concatenate pieces (width, text; most significant first) at a shift in a word.

    Pieces that lie whole beyond the word are dropped; a piece must not straddle its end.
    """
    total = sum(size for size, _ in pieces) + shift
    kept = list(pieces)
    while total > width:
        size, text = kept.pop(0)
        total -= size
        if total < width and size > 1:
            raise AssertionError(f"{text} straddles the end of a {width}-bit word")
    parts = [text for _, text in kept]
    if total < width:
        parts.insert(0, f"{width - total}'b0")
    if shift:
        parts.append(f"{shift}'b0")
    return parts[0] if len(parts) == 1 else "{" + ", ".join(parts) + "}"


def module(
    name: str,
    ports: Iterable[Port],
    body: Iterable[str],
    *,
    comment: Iterable[str] = (),
    parameters: Iterable[tuple[str, int]] = (),
) -> str:
    """A module with its ports in the header, one a line."""
    lines = [f"// {line}".rstrip() for line in comment]
    named = [f"    parameter {key} = {value}" for key, value in parameters]
    lines.append(f"module {name} #(" if named else f"module {name} (")
    if named:
        lines += [",\n".join(named), ") ("]
    columns = [(direction, vector(width), port) for direction, port, width in ports]
    first = max(len(direction) for direction, _, _ in columns)
    second = max(len(size) for _, size, _ in columns)
    lines.append(
        ",\n".join(
            f"    {direction:<{first}} {size:<{second}}{port}" for direction, size, port in columns
        )
    )
    lines.append(");")
    lines += [f"    {line}".rstrip() for line in body]
    lines.append("endmodule\n")
    return "\n".join(lines)
