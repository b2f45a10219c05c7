"""Gate-level simulation, many patterns at once, with each gate's delay.

A net is an array of 64-bit words, one bit per pattern. Every gate delays by its own time, in
whole steps, and swallows pulses shorter than that, so that the transitions counted include the
glitches that a real netlist makes and not those that it could not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from studentfloat.errors import FailureError
from studentfloat.hardware.netlist import Instance, Net, Netlist

__all__ = ["Words", "next_states", "pack", "settle", "toggles", "unpack"]

Words = npt.NDArray[np.uint64]
_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)


def pack(bits: npt.NDArray[np.bool_]) -> Words:
    """Bits of shape ``(..., n)``, n a multiple of 64, as words of shape ``(..., n / 64)``."""
    packed = np.packbits(bits, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view(np.uint64)


def unpack(words: Words) -> npt.NDArray[np.bool_]:
    """Undo :func:`pack`."""
    flat = np.ascontiguousarray(words).view(np.uint8)
    return np.unpackbits(flat, axis=-1, bitorder="little").astype(bool)


@lru_cache(maxsize=4096)
def _function(text: str) -> Callable[[Mapping[str, Words]], Words]:
    """A Liberty function as one on words: ``!`` or ``'`` not, ``*`` ``&`` or blank and, ``+`` or.

    Read by recursive descent, never by ``eval``: a Liberty file is somebody else's text.
    """
    tokens: list[str] = re.findall(r"[A-Za-z_]\w*|[01]|[()!'&*|+^]", text)
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def parse_or() -> Callable[[Mapping[str, Words]], Words]:
        left = parse_xor()
        while peek() in ("|", "+"):
            take()
            left = _both(np.bitwise_or, left, parse_xor())
        return left

    def parse_xor() -> Callable[[Mapping[str, Words]], Words]:
        left = parse_and()
        while peek() == "^":
            take()
            left = _both(np.bitwise_xor, left, parse_and())
        return left

    def parse_and() -> Callable[[Mapping[str, Words]], Words]:
        left = parse_not()
        while peek() in ("&", "*") or (peek() and peek() not in ")|+^"):
            if peek() in ("&", "*"):
                take()
            left = _both(np.bitwise_and, left, parse_not())
        return left

    def parse_not() -> Callable[[Mapping[str, Words]], Words]:
        if peek() == "!":
            take()
            return _inverted(parse_not())
        if peek() == "(":
            take()
            inner = parse_or()
            if take() != ")":
                raise FailureError(f"Liberty function {text!r} has an unclosed bracket")
        else:
            inner = _named(take())
        while peek() == "'":
            take()
            inner = _inverted(inner)
        return inner

    try:
        parsed = parse_or()
    except IndexError:
        raise FailureError(f"Liberty function {text!r} ends too early") from None
    if position != len(tokens):
        raise FailureError(f"Liberty function {text!r} is not understood from {peek()!r}")
    return parsed


def _both(
    operation: np.ufunc,
    left: Callable[[Mapping[str, Words]], Words],
    right: Callable[[Mapping[str, Words]], Words],
) -> Callable[[Mapping[str, Words]], Words]:
    return lambda values: np.asarray(operation(left(values), right(values)))


def _inverted(
    inner: Callable[[Mapping[str, Words]], Words],
) -> Callable[[Mapping[str, Words]], Words]:
    return lambda values: np.asarray(np.bitwise_not(inner(values)))


def _named(name: str) -> Callable[[Mapping[str, Words]], Words]:
    if name in ("0", "1"):
        constant = np.array(_ONES if name == "1" else 0, dtype=np.uint64)
        return lambda values: np.broadcast_to(constant, next(iter(values.values())).shape)
    return lambda values: values[name]


def _pin_values(
    gate: Instance, values: Mapping[Net, Words], shape: tuple[int, ...]
) -> dict[str, Words]:
    pins = {}
    for pin in gate.cell.pins.values():
        if pin.direction == "input":
            net = gate.nets.get(pin.name, "x")
            pins[pin.name] = values[net] if net in values else _constant(net, shape)
    return pins


def _constant(net: Net, shape: tuple[int, ...]) -> Words:
    if net == "1":
        return np.full(shape, _ONES)
    if net in ("0", "x"):
        return np.zeros(shape, dtype=np.uint64)
    raise FailureError(f"net {net} of the netlist has no driver")


def settle(netlist: Netlist, sources: Mapping[Net, Words]) -> dict[Net, Words]:
    """Values of all nets once everything has settled.

    Parameters
    ----------
    sources
        Words of every input port's and every flip-flop output's net, all of one shape.
    """
    values = dict(sources)
    shape = next(iter(values.values())).shape
    for gate in netlist.gates:
        pins = _pin_values(gate, values, shape)
        for pin in gate.cell.outputs:
            net = gate.nets.get(pin.name)
            if net is not None and pin.function:
                values[net] = _function(pin.function)(pins)
    return values


def next_states(netlist: Netlist, values: Mapping[Net, Words]) -> dict[Net, Words]:
    """Words of the flip-flops' outputs after the next clock edge, from settled values."""
    shape = next(iter(values.values())).shape
    states: dict[Net, Words] = {}
    for flop in netlist.flops:
        assert flop.cell.next_state is not None
        state = _function(flop.cell.next_state)(_pin_values(flop, values, shape))
        for pin in flop.cell.outputs:
            net = flop.nets.get(pin.name)
            if net is not None and pin.function:
                names = {flop.cell.state: state, flop.cell.state_inverted: np.bitwise_not(state)}
                states[net] = _function(pin.function)(
                    {name: word for name, word in names.items() if name}
                )
    return states


def toggles(
    netlist: Netlist,
    before: Mapping[Net, Words],
    after: Mapping[Net, Words],
    gate_delays: Mapping[str, float],
    *,
    steps: int = 64,
) -> dict[Net, float]:
    """Transitions of each net in one clock cycle, mean over all patterns, glitches included.

    Parameters
    ----------
    before, after
        Words of shape ``(m,)`` of every input's and flip-flop output's net before and
        after the clock edge.
    gate_delays
        Of each cell instance, in any unit.
    steps
        Time steps in the longest path's time: the resolution of delays.
    """
    unit = _time_unit(netlist, gate_delays, steps)
    settled = settle(netlist, before)
    patterns = 64 * next(iter(before.values())).size
    launch = {
        net: _in_steps(gate_delays.get(flop.name, 0.0), unit)
        for flop in netlist.flops
        for net in flop.nets.values()
    }
    waves: dict[Net, Words] = {}
    length = 2 * steps + 2
    for net, word in before.items():
        wave = np.repeat(word[None], length, axis=0)
        wave[1 + launch.get(net, 0) :] = after[net]
        waves[net] = wave
    counts = {net: _count(wave, patterns) for net, wave in waves.items()}
    last_use = _last_uses(netlist)
    for number, gate in enumerate(netlist.gates):
        pins = _pin_values(gate, waves, (length, next(iter(before.values())).size))
        delay = max(1, _in_steps(gate_delays.get(gate.name, 0.0), unit))
        for pin in gate.cell.outputs:
            out = gate.nets.get(pin.name)
            if out is not None and pin.function:
                ideal = _function(pin.function)(pins)
                waves[out] = _inertial(ideal, settled[out], delay)
                counts[out] = _count(waves[out], patterns)
        for net in last_use.get(number, ()):
            waves.pop(net, None)  # a wave is as large as all patterns times all steps
    return counts


def _time_unit(netlist: Netlist, gate_delays: Mapping[str, float], steps: int) -> float:
    arrival: dict[Net, float] = {}
    for flop in netlist.flops:
        for net in flop.nets.values():
            arrival[net] = gate_delays.get(flop.name, 0.0)
    longest = 0.0
    for gate in netlist.gates:
        start = max((arrival.get(net, 0.0) for net in gate.nets.values()), default=0.0)
        end = start + gate_delays.get(gate.name, 0.0)
        longest = max(longest, end)
        for pin in gate.cell.outputs:
            out = gate.nets.get(pin.name)
            if out is not None:
                arrival[out] = end
    return longest / steps if longest else 1.0


def _in_steps(delay: float, unit: float) -> int:
    return round(delay / unit)


def _inertial(ideal: Words, start: Words, delay: int) -> Words:
    """Delay a wave, and drop pulses shorter than the delay."""
    length = ideal.shape[0]
    padded = np.concatenate([np.repeat(start[None], delay, axis=0), ideal], axis=0)
    every, some = padded[:length].copy(), padded[:length].copy()
    for k in range(1, delay):
        window = padded[k : k + length]
        every &= window
        some |= window
    wave = np.empty_like(ideal)
    state = start
    for t in range(length):
        # All of the window one: becomes one. None of it: zero. Otherwise as it was.
        state = (state & some[t]) | every[t]
        wave[t] = state
    return wave


def _count(wave: Words, patterns: int) -> float:
    return float(np.bitwise_count(wave[1:] ^ wave[:-1]).sum()) / patterns


def _last_uses(netlist: Netlist) -> dict[int, Sequence[Net]]:
    last: dict[Net, int] = {}
    for number, gate in enumerate(netlist.gates):
        for net in gate.nets.values():
            last[net] = number
    uses: dict[int, Sequence[Net]] = {}
    for net, number in last.items():
        uses[number] = [*uses.get(number, ()), net]
    return uses
