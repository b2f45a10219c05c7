"""What the kinds of unit have in common: how one is built, measured and proved.

A kind is a value. Nothing asks what it is called.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from studentfloat.hardware.dequantizer import Dequantizer
from studentfloat.hardware.energy import CodePairs
from studentfloat.hardware.liberty import Library
from studentfloat.hardware.netlist import Netlist
from studentfloat.hardware.operands import Operand
from studentfloat.hardware.records import HardwareCost
from studentfloat.hardware.synthesis import Recipe
from studentfloat.hardware.units import Unit

__all__ = ["Job", "Measured", "Setting", "UnitKind", "spread"]


@dataclasses.dataclass(frozen=True)
class Job:
    """One row of the table."""

    name: str
    format: str
    a: Operand
    b: Operand
    pairs: CodePairs | None


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all rows share."""

    dot_length: int
    library: Library
    library_key: str
    recipes: tuple[Recipe, ...]
    prove: bool
    tool: str
    scale_type: str
    accumulator_bits: int | None = None
    overflow: str = "wrap"


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """A row, and the netlist that it is about.

    Attributes
    ----------
    netlist_json
        As Yosys wrote it, flat.
    top
        Name of its top module.
    """

    row: HardwareCost
    netlist_json: str
    top: str


class UnitKind(ABC):
    """One kind of unit."""

    heeds: ClassVar[frozenset[str]]
    """Which of the options ``activations``, ``accumulator_bits``, ``overflow``, ``dot_length`` and
    ``scale_type`` make a difference to it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As the user spells it."""

    @abstractmethod
    def designs(self, job: Job, setting: Setting) -> Sequence[Unit | Dequantizer]:
        """The unit in every architecture that the operands lend themselves to."""

    @abstractmethod
    def measure(self, job: Job, setting: Setting) -> Measured:
        """Build all architectures, keep the best, prove and measure it."""

    @abstractmethod
    def real_energy(self, row: HardwareCost, netlist: Netlist, job: Job, setting: Setting) -> float:
        """Energy per clock cycle of the row's netlist on the job's pairs of codes, in fJ."""

    def notes(self, setting: Setting) -> tuple[str, ...]:
        """What to bear in mind with its figures."""
        return ()


def spread(values: Sequence[float]) -> float:
    """Half the range."""
    return (max(values) - min(values)) / 2
