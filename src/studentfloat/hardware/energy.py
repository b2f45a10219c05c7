"""Energy per clock cycle from switching activity, glitches included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from studentfloat.errors import ConfigError
from studentfloat.hardware.dequantizer import Dequantizer
from studentfloat.hardware.liberty import Library, Table
from studentfloat.hardware.netlist import Net, Netlist
from studentfloat.hardware.operands import Operand
from studentfloat.hardware.simulation import Words, next_states, pack, settle, toggles
from studentfloat.hardware.timing import TimingResult
from studentfloat.hardware.units import Unit

__all__ = ["CodePairs", "code_pairs", "dequantizer_energy", "energy_per_cycle"]

CodePairs = npt.NDArray[np.float64]
"""Weight of each pair of codes, of shape ``(2**a.bits, 2**b.bits)``."""

_STREAMS = 64
_SAMPLED_CYCLES = 24
_WARM_UP = 8
_CYCLES = _WARM_UP + _SAMPLED_CYCLES + 1


def code_pairs(a: Operand, b: Operand, counts: npt.ArrayLike | None = None) -> CodePairs | None:
    """Check a histogram of code pairs, as the quantizer hands it over.

    Parameters
    ----------
    counts
        Of shape ``(2**a.bits, 2**b.bits)``: how often each pair of codes meets in a real
        product; or None for uniform valid codes.

    Raises
    ------
    ConfigError
        If the shape is wrong, a count negative, or a code occurs that stands for no number.
    """
    if counts is None:
        return None
    pairs = np.asarray(counts, dtype=np.float64)
    expected = (len(a.integers), len(b.integers))
    if pairs.shape != expected:
        raise ConfigError(f"a histogram of code pairs of shape {pairs.shape}: must be {expected}")
    if not np.isfinite(pairs).all() or (pairs < 0).any() or pairs.sum() <= 0:
        raise ConfigError("a histogram of code pairs must have counts of zero and more")
    for operand, sums in ((a, pairs.sum(axis=1)), (b, pairs.sum(axis=0))):
        for code, value in enumerate(operand.integers):
            if value is None and sums[code]:
                raise ConfigError(f"code {code} of {operand.name} stands for no number, but occurs")
    return pairs


def _draw(
    unit: Unit, pairs: CodePairs | None, cycles: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Codes of shape ``(cycles, lanes, streams)``."""
    shape = (cycles, unit.lanes, _STREAMS)
    if pairs is None:
        return rng.choice(unit.a.valid, shape), rng.choice(unit.b.valid, shape)
    flat = rng.choice(pairs.size, shape, p=pairs.ravel() / pairs.sum())
    return flat // pairs.shape[1], flat % pairs.shape[1]


def _bits(codes: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.bool_]:
    """Codes of shape ``(lanes, streams)`` as bits of shape ``(lanes * width, streams)``."""
    bits = codes[:, None, :] >> np.arange(width)[None, :, None] & 1
    return bits.astype(bool).reshape(-1, codes.shape[-1])


def energy_per_cycle(
    netlist: Netlist,
    unit: Unit,
    library: Library,
    timing: TimingResult,
    *,
    pairs: CodePairs | None = None,
    seed: int = 0,
) -> float:
    """Mean energy of a clock cycle in which every lane multiplies, in fJ.

    Codes are drawn from `pairs` (uniform over the valid ones by default), independently from
    cycle to cycle, into 64 dot products at once; 24 cycles of each are measured. The energy is
    that of all pins' capacitances, ``C V² / 2`` per transition, the clock's two per
    cycle among them, and the cells' internal energy where the library has tables of it.
    """
    codes_a, codes_b = _draw(unit, pairs, _CYCLES, np.random.default_rng(seed))
    inputs = [
        {"a": pack(_bits(a, unit.a.bits)), "b": pack(_bits(b, unit.b.bits))}
        for a, b in zip(codes_a, codes_b, strict=True)
    ]
    return _measured(netlist, library, timing, inputs)


def dequantizer_energy(
    netlist: Netlist,
    unit: Dequantizer,
    library: Library,
    timing: TimingResult,
    *,
    counts: npt.NDArray[np.float64] | None = None,
    seed: int = 0,
) -> float:
    """Mean energy of a clock cycle in which a code is dequantized, in fJ.

    As :func:`energy_per_cycle`. A scale stays for all the cycles measured, as it does for a
    block of numbers; scales are even over 8 octaves below one and over all fractions.

    Parameters
    ----------
    counts
        How often each code occurs, of shape ``(2**bits,)``; by default uniform.
    """
    rng = np.random.default_rng(seed)
    operand, kind = unit.operand, unit.scale
    chances = None if counts is None else counts / counts.sum()
    pool = np.array(operand.valid) if counts is None else np.arange(len(operand.integers))
    codes = rng.choice(pool, (_CYCLES, 1, _STREAMS), p=chances)
    exponents = kind.bias - rng.integers(1, 9, (1, _STREAMS))
    scales = exponents << kind.fraction_bits | rng.integers(
        0, 1 << kind.fraction_bits, (1, _STREAMS)
    )
    scale = pack(_bits(scales, 16))
    inputs = [{"code": pack(_bits(one, operand.bits)), "scale": scale} for one in codes]
    return _measured(netlist, library, timing, inputs)


def _measured(
    netlist: Netlist,
    library: Library,
    timing: TimingResult,
    inputs: Sequence[Mapping[str, Words]],
) -> float:
    """Mean energy of a clock cycle after the warm-up; the first cycle clears."""
    low = np.zeros(_STREAMS // 64, dtype=np.uint64)
    state = {
        net: low
        for flop in netlist.flops
        for pin in flop.cell.outputs
        if (net := flop.nets.get(pin.name)) is not None
    }
    before: list[dict[Net, Words]] = []
    for cycle, words in enumerate(inputs):
        sources = {
            **_port(netlist, "clk", low[None]),
            **_port(netlist, "clear", low[None] if cycle else ~low[None]),
            **state,
        }
        for name, word in words.items():
            sources |= _port(netlist, name, word)
        before.append(sources)
        state = next_states(netlist, settle(netlist, sources))
    measured = before[_WARM_UP:]
    first, second = (
        {net: np.concatenate([s[net] for s in part]) for net in measured[0]}
        for part in (measured[:-1], measured[1:])
    )
    counts = toggles(netlist, first, second, timing.gate_delays_ns)
    return _energy(netlist, library, timing, counts)


def _port(netlist: Netlist, name: str, words: Words) -> dict[Net, Words]:
    return dict(zip(netlist.inputs[name], words, strict=True)) if name in netlist.inputs else {}


def _energy(
    netlist: Netlist, library: Library, timing: TimingResult, counts: dict[Net, float]
) -> float:
    clocks = set(netlist.inputs.get("clk", ()))
    total = 0.0
    for net, load in netlist.loads_ff.items():
        total += load * library.voltage**2 / 2 * (2.0 if net in clocks else counts.get(net, 0.0))
    for instance in netlist.instances:
        for pin in instance.cell.pins.values():
            node = instance.nets.get(pin.name)
            if node is None or not pin.energy:
                continue
            transitions = 2.0 if node in clocks else counts.get(node, 0.0)
            slew = timing.slews_ns.get(node, 0.0)
            load = netlist.loads_ff.get(node, 0.0)
            # One table for each related pin: which of them caused it is not tracked, so the mean.
            energies = [_mean(tables, slew, load) for _, tables in pin.energy]
            total += transitions * sum(energies) / len(energies)
    return total


def _mean(tables: object, slew: float, load: float) -> float:
    assert isinstance(tables, dict)
    values = [table(slew, load) for table in tables.values() if isinstance(table, Table)]
    return sum(values) / len(values) if values else 0.0
