"""Static timing analysis of a mapped netlist, with the library's own delay tables.

Wires have no delay and no capacitance, inputs arrive at time zero with a ramp of zero, and
outputs drive nothing: what is compared is logic, before placement.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from studentfloat.errors import FailureError
from studentfloat.hardware.liberty import Arc, Pin, Table
from studentfloat.hardware.netlist import Instance, Net, Netlist

__all__ = ["TimingResult", "analyze_timing"]

_EDGES = ("rise", "fall")
_OTHER = {"rise": "fall", "fall": "rise"}


@dataclass(frozen=True)
class TimingResult:
    """The longest path.

    Attributes
    ----------
    delay_ns
        Shortest clock period: to a flip-flop's input with its setup time, or to an output.
    path
        Cells on the path, first to last.
    gate_delays_ns
        Of each cell instance, the longest delay through it at its own slews and load.
    slews_ns
        Worst slew of each net.
    """

    delay_ns: float
    path: tuple[str, ...]
    gate_delays_ns: dict[str, float]
    slews_ns: dict[Net, float]


@dataclass
class _Arrival:
    time: float
    slew: float
    path: tuple[str, ...]


@dataclass
class _State:
    netlist: Netlist
    arrivals: dict[tuple[Net, str], _Arrival] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)


def analyze_timing(netlist: Netlist) -> TimingResult:
    """Find the shortest clock period of a netlist.

    Raises
    ------
    FailureError
        If a cell on a path has no delay tables.
    """
    state = _State(netlist)
    arrivals = state.arrivals
    for nets in netlist.inputs.values():
        for net in nets:
            for edge in _EDGES:
                arrivals[net, edge] = _Arrival(0.0, 0.0, ())
    for flop in netlist.flops:
        _launch(flop, state)
    for gate in netlist.gates:
        _through(gate, state)
    worst = _Arrival(0.0, 0.0, ())
    for nets in netlist.outputs.values():
        for net in nets:
            for edge in _EDGES:
                worst = max(worst, arrivals.get((net, edge), worst), key=lambda a: a.time)
    for flop in netlist.flops:
        worst = max(worst, _capture(flop, arrivals), key=lambda a: a.time)
    slews: dict[Net, float] = {}
    for (net, _), arrival in arrivals.items():
        slews[net] = max(slews.get(net, 0.0), arrival.slew)
    return TimingResult(worst.time, worst.path, state.delays, slews)


def _launch(
    flop: Instance,
    state: _State,
) -> None:
    """The clock's edge, at time zero, changes the flip-flop's outputs."""
    for pin in flop.cell.outputs:
        net = flop.nets.get(pin.name)
        if net is None:
            continue
        for arc in pin.arcs:
            if arc.kind in ("rising_edge", "falling_edge"):
                for edge in _EDGES:
                    start = _Arrival(0.0, 0.0, ())
                    _arrive(flop, arc, edge, net, start=start, state=state)


def _through(
    gate: Instance,
    state: _State,
) -> None:
    for pin in gate.cell.outputs:
        net = gate.nets.get(pin.name)
        if net is None:
            continue
        if not pin.arcs and any(isinstance(n, int) for n in gate.nets.values() if n != net):
            raise FailureError(f"cell {gate.cell.name} has no delay tables: timing needs them")
        for arc in pin.arcs:
            if not arc.kind.startswith("combinational"):
                continue
            source = gate.nets.get(arc.related)
            for edge in _EDGES:
                for before in _causes(arc, edge):
                    start = state.arrivals.get((source, before)) if source is not None else None
                    if start is not None:
                        _arrive(gate, arc, edge, net, start=start, state=state)


def _causes(arc: Arc, edge: str) -> tuple[str, ...]:
    if arc.sense == "positive_unate":
        return (edge,)
    if arc.sense == "negative_unate":
        return (_OTHER[edge],)
    return _EDGES


def _arrive(
    instance: Instance,
    arc: Arc,
    edge: str,
    net: Net,
    *,
    start: _Arrival,
    state: _State,
) -> None:
    table = arc.tables.get(f"cell_{edge}")
    if table is None:
        return
    load = state.netlist.loads_ff.get(net, 0.0)
    delay = table(start.slew, load)
    slope = arc.tables.get(f"{edge}_transition")
    slew = max(0.0, slope(start.slew, load)) if slope else 0.0
    delays = state.delays
    delays[instance.name] = max(delays.get(instance.name, 0.0), delay)
    new = _Arrival(start.time + delay, slew, (*start.path, instance.cell.name))
    arrivals = state.arrivals
    known = arrivals.get((net, edge))
    if known is None:
        arrivals[net, edge] = new
    else:
        # As timing tools do: the latest arrival and the worst slew, be it another path's.
        later = max(known, new, key=lambda a: a.time)
        arrivals[net, edge] = _Arrival(later.time, max(known.slew, new.slew), later.path)


def _capture(flop: Instance, arrivals: dict[tuple[Net, str], _Arrival]) -> _Arrival:
    worst = _Arrival(0.0, 0.0, ())
    for pin in flop.cell.pins.values():
        net = flop.nets.get(pin.name)
        if pin.direction != "input" or pin.clock or net is None:
            continue
        for edge in _EDGES:
            arrival = arrivals.get((net, edge))
            if arrival is None:
                continue
            time = arrival.time + _setup(pin, edge, arrival.slew)
            if time > worst.time:
                worst = _Arrival(time, arrival.slew, arrival.path)
    return worst


def _setup(pin: Pin, edge: str, slew: float) -> float:
    longest = 0.0
    for arc in pin.arcs:
        table: Table | None = arc.tables.get(f"{edge}_constraint")
        if arc.kind.startswith("setup") and table is not None:
            longest = max(longest, table(slew, 0.0))  # an ideal clock's slew is zero
    return longest
