"""A cell library of our own making, in Liberty: textbook areas and delays, no foundry's data.

Areas are gate equivalents from transistor counts: in a row of complementary cells each pair of
transistors takes one column and each cell one more to keep apart from its neighbor, so a cell of
T transistors is ``T / 2 + 1`` columns wide and a NAND2 is three. Delays follow the method of
logical effort (Sutherland, Sproull and Harris, *Logical Effort*, 1999): ``τ (p + g h)`` with
the textbook's efforts g and parasitics p. Energy is ``C V² / 2`` for each toggle of a net.
The absolute scale (τ, C, V) is a convention; only ratios between units mean anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

__all__ = ["NAME", "TAU_NS", "generic_liberty"]

NAME = "generic"
TAU_NS = 0.004
"""Delay of an inverter that drives one copy of itself, without parasitics: FO4 is 20 ps."""

_CAPACITANCE_FF = 1.0
"""Input of the smallest inverter."""
_VOLTAGE = 1.0

# Slews barely matter in logical effort; this much of the input's slew adds to the delay.
_SLEW_SHARE = 0.15


@dataclass(frozen=True)
class _Gate:
    """A complementary gate.

    `efforts` has the logical effort of each input; sizes multiply transistors' widths.
    """

    name: str
    function: str
    transistors: int
    efforts: tuple[float, ...]
    parasitic: float
    size: int = 1
    stages: int = 1

    @property
    def area(self) -> float:
        """Gate equivalents; a larger size repeats the columns of the output stage."""
        columns = self.transistors / 2 * (1 if self.stages == 1 else 0.5)
        fixed = self.transistors / 2 - columns
        return (fixed + columns * self.size + 1) / 3


_GATES = (
    *(_Gate(f"INV_X{k}", "!A", 2, (1.0,), 1.0, k) for k in (1, 2, 4, 8)),
    *(_Gate(f"BUF_X{k}", "A", 4, (1.0,), 2.0, k, stages=2) for k in (1, 2, 4, 8)),
    *(_Gate(f"NAND2_X{k}", "!(A & B)", 4, (4 / 3,) * 2, 2.0, k) for k in (1, 2)),
    *(_Gate(f"NOR2_X{k}", "!(A | B)", 4, (5 / 3,) * 2, 2.0, k) for k in (1, 2)),
    _Gate("NAND3_X1", "!(A & B & C)", 6, (5 / 3,) * 3, 3.0),
    _Gate("NOR3_X1", "!(A | B | C)", 6, (7 / 3,) * 3, 3.0),
    _Gate("NAND4_X1", "!(A & B & C & D)", 8, (2.0,) * 4, 4.0),
    _Gate("NOR4_X1", "!(A | B | C | D)", 8, (3.0,) * 4, 4.0),
    _Gate("AND2_X1", "A & B", 6, (4 / 3,) * 2, 3.5, stages=2),
    _Gate("OR2_X1", "A | B", 6, (5 / 3,) * 2, 3.5, stages=2),
    _Gate("AOI21_X1", "!((A & B) | C)", 6, (2.0, 2.0, 5 / 3), 7 / 3),
    _Gate("OAI21_X1", "!((A | B) & C)", 6, (2.0, 2.0, 4 / 3), 7 / 3),
    _Gate("AOI22_X1", "!((A & B) | (C & D))", 8, (2.0,) * 4, 4.0),
    _Gate("OAI22_X1", "!((A | B) & (C | D))", 8, (2.0,) * 4, 4.0),
    _Gate("AOI211_X1", "!((A & B) | C | D)", 8, (8 / 3, 8 / 3, 7 / 3, 7 / 3), 4.0),
    _Gate("OAI211_X1", "!((A | B) & C & D)", 8, (7 / 3, 7 / 3, 5 / 3, 5 / 3), 4.0),
    # Ten transistors: a NOR2 and an AOI21 (a NAND2 and an OAI21 for the complement).
    _Gate("XOR2_X1", "A ^ B", 10, (11 / 3,) * 2, 5.0, stages=1),
    _Gate("XNOR2_X1", "!(A ^ B)", 10, (11 / 3,) * 2, 5.0, stages=1),
    # An inverted-input multiplexer of transmission gates with an output inverter.
    _Gate("MUX2_X1", "(S & B) | (!S & A)", 12, (2.0, 2.0, 4.0), 4.5, stages=2),
)

_FLOP_TRANSISTORS = 24  # two latches of transmission gates, and the clock's two inverters
_FLOP_INPUT_EFFORT = 1.0
_CLOCK_TO_OUTPUT = 6.0  # τ, parasitic: two inverters and two transmission gates
_CLOCK_INSIDE = 8.0  # gates of four transmission gates and of one inverter, and parasitics
_FLOP_INSIDE = 10.0  # both latches and the output inverter change with the output
_SETUP = 5.0
_HOLD = 0.0


def _pins(function: str) -> tuple[str, ...]:
    return tuple(sorted({c for c in function if c.isalpha()} - {"S"})) + (
        ("S",) if "S" in function else ()
    )


def _sense(name: str) -> str:
    if name.startswith(("XOR", "XNOR")):
        return "non_unate"
    inverting = name.startswith(("INV", "NAND", "NOR", "AOI", "OAI"))
    return "negative_unate" if inverting else "positive_unate"


def _table(parasitic_ns: float, per_ff_ns: float, slew_share: float, indent: str) -> list[str]:
    slews, loads = (0.0, 0.2), (0.0, 100.0)
    rows = [
        ", ".join(f"{parasitic_ns + per_ff_ns * load + slew_share * slew:.6f}" for load in loads)
        for slew in slews
    ]
    return [
        f'{indent}index_1 ("{", ".join(f"{x:g}" for x in slews)}");',
        f'{indent}index_2 ("{", ".join(f"{x:g}" for x in loads)}");',
        f"{indent}values (" + ", ".join(f'"{row}"' for row in rows) + ");",
    ]


def _arc(related: str, attributes: list[str], parasitic: float, drive: int) -> list[str]:
    per_ff = TAU_NS / (_CAPACITANCE_FF * drive)
    lines = ["      timing () {", f'        related_pin : "{related}";', *attributes]
    for kind in ("cell_rise", "cell_fall"):
        lines.append(f"        {kind} (delay_2x2) {{")
        lines += _table(parasitic * TAU_NS, per_ff, _SLEW_SHARE, "          ")
        lines.append("        }")
    for kind in ("rise_transition", "fall_transition"):
        lines.append(f"        {kind} (delay_2x2) {{")
        # A ramp takes about as long as the stage's delay to the middle, twice.
        lines += _table(parasitic * TAU_NS, 2 * per_ff, 0.0, "          ")
        lines.append("        }")
    return [*lines, "      }"]


def _internal(indent: str, capacitance: float) -> list[str]:
    """Energy of a transition of the output's own (parasitic) capacitance, in fJ."""
    energy = capacitance * _VOLTAGE**2 / 2
    return [
        f"{indent}internal_power () {{",
        f'{indent}  rise_power (scalar) {{ values ("{energy:.4f}"); }}',
        f'{indent}  fall_power (scalar) {{ values ("{energy:.4f}"); }}',
        f"{indent}}}",
    ]


def _cell(gate: _Gate) -> list[str]:
    pins = _pins(gate.function)
    lines = [f"  cell ({gate.name}) {{", f"    area : {gate.area:.4f};"]
    first_stage = gate.size if gate.stages == 1 else 1
    for pin, effort in zip(pins, gate.efforts, strict=True):
        capacitance = effort * _CAPACITANCE_FF * first_stage
        lines += [
            f"    pin ({pin}) {{ direction : input; capacitance : {capacitance:.4f}; }}",
        ]
    lines += ["    pin (Y) {", "      direction : output;", f'      function : "{gate.function}";',
              f"      max_capacitance : {100 * gate.size};"]  # fmt: skip
    for pin in pins:
        sense = "non_unate" if pin == "S" else _sense(gate.name)
        extra = 1.0 if gate.stages == 2 and gate.size > 1 else 0.0
        attributes = [f"        timing_sense : {sense};"]
        lines += _arc(pin, attributes, gate.parasitic + extra * gate.size / 2, gate.size)
    lines += _internal("      ", gate.parasitic * _CAPACITANCE_FF * gate.size)
    return [*lines, "    }", "  }"]


def _flop() -> list[str]:
    capacitance = _FLOP_INPUT_EFFORT * _CAPACITANCE_FF
    lines = [
        "  cell (DFF_X1) {",
        f"    area : {(_FLOP_TRANSISTORS / 2 + 1) / 3:.4f};",
        '    ff (IQ, IQN) { next_state : "D"; clocked_on : "CK"; }',
        f"    pin (CK) {{ direction : input; clock : true; capacitance : {capacitance:.4f};",
        *_internal("      ", _CLOCK_INSIDE * _CAPACITANCE_FF),
        "    }",
        f"    pin (D) {{ direction : input; capacitance : {capacitance:.4f};",
    ]
    for kind, amount in (("setup_rising", _SETUP), ("hold_rising", _HOLD)):
        lines.append(f'      timing () {{ related_pin : "CK"; timing_type : {kind};')
        for edge in ("rise", "fall"):
            value = f"{amount * TAU_NS:.6f}"
            lines.append(f'        {edge}_constraint (scalar) {{ values ("{value}"); }}')
        lines.append("      }")
    lines += ["    }", "    pin (Q) {", "      direction : output;", '      function : "IQ";',
              "      max_capacitance : 100;"]  # fmt: skip
    attributes = ["        timing_type : rising_edge;", "        timing_sense : non_unate;"]
    lines += _arc("CK", attributes, _CLOCK_TO_OUTPUT, 1)
    return [*lines, *_internal("      ", _FLOP_INSIDE * _CAPACITANCE_FF), "    }", "  }"]


@lru_cache(maxsize=1)
def generic_liberty() -> str:
    """The whole library as Liberty text."""
    lines = [
        f"library ({NAME}) {{",
        '  comment : "Gate equivalents and logical effort; relative, no foundry\'s data";',
        "  delay_model : table_lookup;",
        '  time_unit : "1ns";',
        "  capacitive_load_unit (1, ff);",
        '  voltage_unit : "1V";',
        '  current_unit : "1uA";',
        '  pulling_resistance_unit : "1kohm";',
        '  leakage_power_unit : "1nW";',
        f"  nom_voltage : {_VOLTAGE:g};",
        "  nom_temperature : 25;",
        "  nom_process : 1;",
        "  input_threshold_pct_rise : 50; input_threshold_pct_fall : 50;",
        "  output_threshold_pct_rise : 50; output_threshold_pct_fall : 50;",
        "  slew_lower_threshold_pct_rise : 20; slew_lower_threshold_pct_fall : 20;",
        "  slew_upper_threshold_pct_rise : 80; slew_upper_threshold_pct_fall : 80;",
        "  default_max_transition : 1.0;",
        "  lu_table_template (delay_2x2) {",
        "    variable_1 : input_net_transition;",
        "    variable_2 : total_output_net_capacitance;",
        '    index_1 ("0, 0.2");',
        '    index_2 ("0, 100");',
        "  }",
    ]
    for gate in _GATES:
        lines += _cell(gate)
    return "\n".join([*lines, *_flop(), "}", ""])
