"""Mapped netlists: read from Yosys's JSON, measured, and simulated many patterns at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from studentfloat.errors import FailureError
from studentfloat.hardware.liberty import Cell, Library

__all__ = ["Instance", "Netlist", "area_by_module", "netlist_from_json"]

Net = int | str
"""Number of a net, or a constant ``"0"``, ``"1"``, ``"x"``."""


@dataclass(frozen=True)
class Instance:
    """One cell of a netlist, its nets by pin."""

    name: str
    cell: Cell
    nets: Mapping[str, Net]


@dataclass(frozen=True)
class Netlist:
    """A flat netlist of library cells.

    Attributes
    ----------
    inputs, outputs
        Nets of each port, least significant bit first.
    """

    top: str
    inputs: Mapping[str, tuple[Net, ...]]
    outputs: Mapping[str, tuple[Net, ...]]
    instances: tuple[Instance, ...]

    @cached_property
    def area(self) -> float:
        """Sum of the cells' areas, in the library's unit."""
        return sum(instance.cell.area for instance in self.instances)

    @cached_property
    def flops(self) -> tuple[Instance, ...]:
        """The flip-flops."""
        return tuple(i for i in self.instances if i.cell.next_state is not None)

    @cached_property
    def gates(self) -> tuple[Instance, ...]:
        """Combinational cells, each after those that drive it."""
        drivers = {
            net: instance
            for instance in self.instances
            if instance.cell.next_state is None
            for pin in instance.cell.outputs
            if (net := instance.nets.get(pin.name)) is not None
        }
        waiting: dict[str, set[str]] = {}
        readers: dict[str, list[Instance]] = {}
        ready: list[Instance] = []
        for instance in {id(i): i for i in drivers.values()}.values():
            before = {
                drivers[net].name
                for pin in instance.cell.pins.values()
                if pin.direction == "input" and (net := instance.nets.get(pin.name)) in drivers
            }
            waiting[instance.name] = before
            for name in before:
                readers.setdefault(name, []).append(instance)
            if not before:
                ready.append(instance)
        order: list[Instance] = []
        while ready:
            instance = ready.pop()
            order.append(instance)
            for reader in readers.get(instance.name, ()):
                waiting[reader.name].discard(instance.name)
                if not waiting[reader.name]:
                    ready.append(reader)
        if len(order) < len(waiting):
            raise FailureError(f"netlist {self.top} has a combinational loop")
        return tuple(order)

    @cached_property
    def loads_ff(self) -> dict[Net, float]:
        """Capacitance of the pins on each net; wires are not counted."""
        loads: dict[Net, float] = {}
        for instance in self.instances:
            for pin in instance.cell.pins.values():
                net = instance.nets.get(pin.name)
                if pin.direction == "input" and net is not None:
                    loads[net] = loads.get(net, 0.0) + pin.capacitance_ff
        return loads


def netlist_from_json(text: str, top: str, library: Library) -> Netlist:
    """Read one flat module of Yosys's JSON.

    Raises
    ------
    FailureError
        If a cell is none of the library's: the netlist was not mapped whole.
    """
    module = _modules(text)[top]
    instances = []
    for name, cell in module["cells"].items():
        if cell["type"] == "$scopeinfo":
            continue
        known = library.cells.get(cell["type"])
        if known is None:
            raise FailureError(f"netlist {top} has the cell {cell['type']}, which is not mapped")
        nets = {pin: bits[0] for pin, bits in cell["connections"].items() if bits}
        instances.append(Instance(name, known, nets))
    ports = module["ports"]
    return Netlist(
        top,
        {n: tuple(p["bits"]) for n, p in ports.items() if p["direction"] == "input"},
        {n: tuple(p["bits"]) for n, p in ports.items() if p["direction"] == "output"},
        tuple(instances),
    )


def area_by_module(text: str, top: str, library: Library) -> dict[str, tuple[float, float]]:
    """Area of logic and of flip-flops of each module below a hierarchical top.

    Returns
    -------
    dict
        Module name to ``(logic, flip-flops)``, summed over all its instances,
        its own cells only.
    """
    modules = _modules(text)
    areas: dict[str, tuple[float, float]] = {}

    def visit(name: str) -> None:
        for cell in modules[name]["cells"].values():
            kind = cell["type"]
            if kind in modules and not modules[kind].get("attributes", {}).get("blackbox"):
                visit(kind)
            elif kind in library.cells:
                known = library.cells[kind]
                logic, flops = areas.get(name, (0.0, 0.0))
                if known.next_state is None:
                    areas[name] = (logic + known.area, flops)
                else:
                    areas[name] = (logic, flops + known.area)
            elif kind != "$scopeinfo":
                raise FailureError(f"netlist {top} has the cell {kind}, which is not mapped")

    visit(top)
    return areas


def _modules(text: str) -> dict[str, Any]:
    try:
        modules: dict[str, Any] = json.loads(text)["modules"]
    except (ValueError, KeyError) as error:
        raise FailureError(f"Yosys wrote no netlist: {error}") from error
    return modules
