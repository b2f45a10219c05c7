"""Gate-level simulation, many patterns at once, with each gate's delay.

Settled values are arrays of 64-bit words, one bit per pattern. Transitions have exact times: every
gate delays by its own time and swallows pulses shorter than that, so that the transitions counted
include the glitches that a real netlist makes and not those that it could not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

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


class _Wave(NamedTuple):
    """A net's transitions in one clock cycle of every pattern.

    Attributes
    ----------
    initial
        bool, of shape ``(patterns,)``: its values before the clock edge.
    pattern, time
        Of shape ``(n,)``, ascending by pattern and within one by time: when it toggles.
    """

    initial: npt.NDArray[np.bool_]
    pattern: npt.NDArray[np.intp]
    time: npt.NDArray[np.float64]


def toggles(
    netlist: Netlist,
    before: Mapping[Net, Words],
    after: Mapping[Net, Words],
    gate_delays: Mapping[str, float],
) -> dict[Net, float]:
    """Transitions of each net in one clock cycle, mean over all patterns, glitches included.

    Times are exact: every transition happens at the sum of the delays on its way. A gate swallows
    pulses shorter than its own delay.

    Parameters
    ----------
    before, after
        Words of shape ``(m,)`` of every input's and flip-flop output's net before and
        after the clock edge.
    gate_delays
        Of each cell instance, in any unit.
    """
    settled = settle(netlist, before)
    launch = {
        net: gate_delays.get(flop.name, 0.0) for flop in netlist.flops for net in flop.nets.values()
    }
    waves: dict[Net, _Wave] = {}
    for net, word in before.items():
        initial = unpack(word)
        (moved,) = np.nonzero(initial ^ unpack(after[net]))
        waves[net] = _Wave(initial, moved, np.full(len(moved), launch.get(net, 0.0)))
    patterns = 64 * next(iter(before.values())).size
    counts = {net: len(wave.time) / patterns for net, wave in waves.items()}
    last_use = _last_uses(netlist)
    for number, gate in enumerate(netlist.gates):
        events = _events(gate, waves)
        delay = gate_delays.get(gate.name, 0.0)
        for pin in gate.cell.outputs:
            out = gate.nets.get(pin.name)
            if out is not None and pin.function:
                ideal = events.outcome(_function(pin.function))
                waves[out] = _inertial(unpack(settled[out]), events, ideal, delay)
                counts[out] = len(waves[out].time) / patterns
        for net in last_use.get(number, ()):
            waves.pop(net, None)
    return counts


class _Events(NamedTuple):
    """Moments at which some input of a gate toggles, and what its inputs are from then on."""

    pattern: npt.NDArray[np.intp]
    time: npt.NDArray[np.float64]
    pins: Mapping[str, Words]

    def outcome(self, function: Callable[[Mapping[str, Words]], Words]) -> npt.NDArray[np.bool_]:
        """The function's value after each moment."""
        if not len(self.time):
            return np.zeros(0, dtype=bool)
        return np.asarray(function(self.pins) != 0)


def _events(gate: Instance, waves: Mapping[Net, _Wave]) -> _Events:
    names = [pin.name for pin in gate.cell.pins.values() if pin.direction == "input"]
    nets = {name: gate.nets.get(name, "x") for name in names}
    moving = {name: waves[net] for name, net in nets.items() if net in waves}
    sizes = [len(wave.time) for wave in moving.values()]
    pattern = np.concatenate([np.zeros(0, np.intp), *(w.pattern for w in moving.values())])
    time = np.concatenate([np.zeros(0), *(wave.time for wave in moving.values())])
    owner = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((time, pattern))
    pattern, time, owner = pattern[order], time[order], owner[order]
    # Of inputs that toggle at the same time, the last row holds what they come to.
    last = _changes(pattern, time)
    first = np.searchsorted(pattern, pattern[last])
    pins: dict[str, Words] = {}
    for number, (name, wave) in enumerate(moving.items()):
        toggled = np.concatenate([[0], np.cumsum(owner == number)])
        odd = (toggled[1:][last] - toggled[first]) % 2 == 1
        pins[name] = np.where(wave.initial[pattern[last]] ^ odd, _ONES, np.uint64(0))
    shape = (int(last.sum()),)
    pins |= {n: _constant(net, shape) for n, net in nets.items() if net not in waves}
    return _Events(pattern[last], time[last], pins)


def _changes(pattern: npt.NDArray[np.intp], time: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether a row is the last of its pattern and time."""
    last = np.ones(len(time), dtype=bool)
    last[:-1] = (pattern[1:] != pattern[:-1]) | (time[1:] != time[:-1])
    return last


def _inertial(
    initial: npt.NDArray[np.bool_],
    events: _Events,
    ideal: npt.NDArray[np.bool_],
    delay: float,
) -> _Wave:
    """What a gate makes of its function's values: later, and without pulses shorter than that."""
    moved = _transitions(initial, events.pattern, ideal)
    pattern, time, value = events.pattern[moved], events.time[moved], ideal[moved]
    lasts = np.ones(len(time), dtype=bool)
    lasts[:-1] = (pattern[1:] != pattern[:-1]) | (time[1:] - time[:-1] >= delay)
    pattern, time, value = pattern[lasts], time[lasts], value[lasts]
    moved = _transitions(initial, pattern, value)
    return _Wave(initial, pattern[moved], time[moved] + delay)


def _transitions(
    initial: npt.NDArray[np.bool_],
    pattern: npt.NDArray[np.intp],
    value: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Whether a value differs from the one before it in its pattern."""
    before = initial[pattern]
    same = pattern[1:] == pattern[:-1]
    before[1:][same] = value[:-1][same]
    moved: npt.NDArray[np.bool_] = value != before
    return moved


def _last_uses(netlist: Netlist) -> dict[int, Sequence[Net]]:
    last: dict[Net, int] = {}
    for number, gate in enumerate(netlist.gates):
        for net in gate.nets.values():
            last[net] = number
    uses: dict[int, Sequence[Net]] = {}
    for net, number in last.items():
        uses[number] = [*uses.get(number, ()), net]
    return uses
