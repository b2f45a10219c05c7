"""From a format's values to Verilog, proof, area, delay and energy. Never imports torch."""

from studentfloat.hardware.cost import UNITS, check_unit, cost, load_library, unit_verilog
from studentfloat.hardware.operands import Operand, operand_from_format, resolve_operand
from studentfloat.hardware.records import Candidate, HardwareCost, HardwareTable
from studentfloat.hardware.units import Unit, accumulator_width, dot, mac, systolic_array

__all__ = [
    "UNITS",
    "Candidate",
    "HardwareCost",
    "HardwareTable",
    "Operand",
    "Unit",
    "accumulator_width",
    "check_unit",
    "cost",
    "dot",
    "load_library",
    "mac",
    "operand_from_format",
    "resolve_operand",
    "systolic_array",
    "unit_verilog",
]
