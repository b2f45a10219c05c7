"""Libraries written by us in the manner of those that users have: every construct they hold."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from studentfloat.errors import FailureError
from studentfloat.hardware import mac, resolve_operand
from studentfloat.hardware.energy import energy_per_cycle
from studentfloat.hardware.liberty import read_libraries
from studentfloat.hardware.proof import prove_unit
from studentfloat.hardware.synthesis import AREA_RECIPES, synthesize
from studentfloat.hardware.timing import analyze_timing

TABLE = 'index_1 ("1, 20"); index_2 ("0.5, 8"); values ("{0}, {1}", \\\n "{2}, {3}");'


def arc(related: str, delay: float, more: str = "", when: str = "") -> str:
    """A timing group in picoseconds, with tables of two sizes of template."""
    numbers = TABLE.format(delay, 4 * delay, 1.5 * delay, 5 * delay)
    condition = f'when : "{when}"; sdf_cond : "{when}";' if when else ""
    return f"""timing () {{ related_pin : "{related}"; {more} {condition}
      cell_rise (delay_7x7) {{ {numbers} }} cell_fall (delay_7x7) {{ {numbers} }}
      rise_transition (delay_7x7) {{ {numbers} }} fall_transition (short) {{ values ("3, 9"); }}
    }}"""


def gate(name: str, area: float, pins: dict[str, float], function: str, extra: str = "") -> str:
    inputs = "".join(
        f"pin ({pin}) {{ direction : input; related_power_pin : VDD; "
        f"rise_capacitance : {load}; fall_capacitance : {load};"
        f" rise_capacitance_range ({load}, {load}); capacitance : {load}; }}\n"
        for pin, load in pins.items()
    )
    arcs = "".join(arc(pin, 5.0, "timing_sense : negative_unate;") for pin in pins)
    return f"""cell ({name}) {{ area : {area}; {extra}
      pg_pin (VDD) {{ pg_type : primary_power; voltage_name : "VDD"; }}
      leakage_power () {{ value : 1.2; when : "!A"; related_pg_pin : VDD; }}
      {inputs}
      pin (Y) {{ direction : output; function : "{function}"; max_capacitance : 46; {arcs}
        internal_power () {{ related_pin : "A";
          rise_power (power_7x7) {{ {TABLE.format(1, 2, 3, 4)} }}
          fall_power (scalar) {{ values ("0.5"); }} }} }}
    }}
"""


HEAD = """library ({name}) {{ /* by hand */
  delay_model : table_lookup; define (process_corner, library, string);
  time_unit : "1ps"; voltage_unit : "1V"; current_unit : "1mA"; capacitive_load_unit (1, ff);
  nom_voltage : 0.7; voltage_map (VDD, 0.7); operating_conditions (typ) {{ process : 1; }}
  lu_table_template (delay_7x7) {{ variable_1 : input_net_transition;
    variable_2 : total_output_net_capacitance; index_1 ("1, 20"); index_2 ("0.5, 8"); }}
  lu_table_template (short) {{ variable_1 : total_output_net_capacitance; index_1 ("0.5, 8"); }}
  lu_table_template (setup) {{ variable_1 : constrained_pin_transition;
    variable_2 : related_pin_transition; index_1 ("1, 20"); index_2 ("1, 20"); }}
  power_lut_template (power_7x7) {{ variable_1 : input_transition_time;
    variable_2 : total_output_net_capacitance; index_1 ("1, 20"); index_2 ("0.5, 8"); }}
  normalized_driver_waveform (wave) {{ index_1 ("1"); values ("0, 1"); }}
  {cells}
}}
"""

SETUP = """timing () { related_pin : "CLK"; timing_type : setup_rising;
  rise_constraint (setup) { values ("1, 2", "3, 4"); }
  fall_constraint (setup) { values ("1, 2", "3, 4"); } }"""
CLOCK = "pin (CLK) { direction : input; clock : true; capacitance : 0.6; min_pulse_width_low : 3; }"
LATCH = f"""cell (LATCH) {{ area : 2; latch (IQ, IQN) {{ enable : "CLK"; data_in : "D"; }} {CLOCK}
  pin (D) {{ direction : input; capacitance : 0.5; }}
  pin (Q) {{ direction : output; function : "IQ"; }} }}
"""
CLOCK_GATE = f"""cell (ICG) {{ area : 3; clock_gating_integrated_cell : "latch_posedge"; {CLOCK}
  statetable ("CLK ENA", "IQ") {{ table : "L L : - : L ,  L H : - : H ,  H - : - : N"; }}
  pin (ENA) {{ direction : input; capacitance : 0.5; }}
  pin (GCLK) {{ direction : output; state_function : "CLK * IQ"; }} }}
"""
WIDE = """type (four) { base_type : array; data_type : bit; bit_width : 4;
    bit_from : 3; bit_to : 0; downto : true; }
  cell (WIDE) { area : 9; bus (Q) { bus_type : four; direction : output; pin (Q[3:0]) { } }
    bundle (B) { members (B0, B1); direction : input; } pin (EN) { direction : input; } }
"""


def flop(name: str, state: str, ff: str, *, output: str, function: str, more: str = "") -> str:
    return f"""cell ({name}) {{ area : 4.5; ff ({state}) {{ {ff} }} {CLOCK} {more}
      pin (D) {{ direction : input; nextstate_type : data; capacitance : 0.5; {SETUP} }}
      pin ({output}) {{ direction : output; function : "{function}";
        {arc("CLK", 9.0, "timing_type : rising_edge; timing_sense : non_unate;")} }}
    }}
"""


LOGIC = (
    gate("INVx1", 1.0, {"A": 0.6}, "(!A)")
    + gate("NAND2x1", 1.4, {"A": 0.6, "B": 0.7}, "(!A) + (!B)")
    + gate("NAND2xp5", 0.1, {"A": 0.6, "B": 0.7}, "!(A * B)", 'dont_use : "true";')
    + gate("AOI21x1", 2.0, {"A": 0.6, "B": 0.7, "C": 0.7}, "(!A * !C) + (!B * !C)")
)
INVERTING = flop(
    "DFFQN", "IQN,IQNN", 'clocked_on : "CLK"; next_state : "!D"; power_down_function : "!VDD";',
    output="QN", function="IQN",
)  # fmt: skip
RESETTING = flop(
    "DFFR", "IQ,IQN",
    'clocked_on : "CLK"; next_state : "D"; clear : "(!RESET_B)"; clear_preset_var1 : L;',
    output="Q", function="IQ", more="pin (RESET_B) { direction : input; capacitance : 0.9; }",
)  # fmt: skip
QUOTED = flop(
    "DFFQ", '"IQ","IQ_N"', 'clocked_on : "CLK" ; next_state : "D" ;', output="Q", function="IQ"
)


def packed_in_several_files(directory: Path) -> list[Path]:
    """Combinational and sequential cells apart, one packed; flip-flops with QN only."""
    logic, sequential = directory / "SIMPLE.lib.gz", directory / "SEQ.lib"
    logic.write_bytes(gzip.compress(HEAD.format(name="simple", cells=LOGIC).encode()))
    sequential.write_text(HEAD.format(name="seq", cells=INVERTING + LATCH + CLOCK_GATE))
    return [logic, sequential]


def resets_only(directory: Path) -> list[Path]:
    """No flip-flop without an asynchronous reset; buses and bundles beside."""
    path = directory / "reset.lib"
    path.write_text(HEAD.format(name="reset", cells=LOGIC + RESETTING + WIDE))
    return [path]


def names_in_quotes(directory: Path) -> list[Path]:
    """Every name in quotes, in nanoseconds and picofarads."""
    text = HEAD.format(name='"quoted"', cells=LOGIC + QUOTED + LATCH)
    for word in ("INVx1", "NAND2x1", "AOI21x1", "DFFQ", "VDD", "delay_7x7"):
        text = text.replace(f"({word})", f'("{word}")')
    text = text.replace('"1ps"', '"1ns"').replace("(1, ff)", '(1.0000000000, "pf")')
    path = directory / "quoted.lib"
    path.write_text(text.replace("pin (", "pin(").replace(" {", "  {"))
    return [path]


@pytest.mark.usefixtures("yosys")
@pytest.mark.parametrize("style", [packed_in_several_files, resets_only, names_in_quotes])
def test_a_unit_is_mapped_timed_and_proved(style, tmp_path: Path) -> None:
    library = read_libraries(style(tmp_path))
    operand = resolve_operand("e2m0")
    unit = mac(operand, operand, "float", 16)
    (result,) = synthesize(unit.verilog, unit.top, library, AREA_RECIPES[:1])
    used = {instance.cell.name for instance in result.netlist.instances}
    assert "NAND2xp5" not in used
    assert used & {"DFFQN", "DFFR", "DFFQ"}
    timing = analyze_timing(result.netlist)
    assert timing.delay_ns > 0
    assert energy_per_cycle(result.netlist, unit, library, timing) > 0
    assert prove_unit(unit, verilog=result.verilog, library=library).proved


def test_units_are_the_librarys_own(tmp_path: Path) -> None:
    small, large = (
        read_libraries(style(tmp_path)).cells["INVx1"]
        for style in (packed_in_several_files, names_in_quotes)
    )
    assert small.pins["A"].capacitance_ff == pytest.approx(0.6)
    assert large.pins["A"].capacitance_ff == pytest.approx(600)
    delays = [
        cell.pins["Y"].arcs[0].tables["cell_rise"](at[0], at[1])
        for cell, at in ((small, (0.020, 8.0)), (large, (20.0, 8000.0)))
    ]
    assert delays == pytest.approx([0.025, 25.0])


def test_a_packed_file_that_is_cut_is_named(tmp_path: Path) -> None:
    logic, sequential = packed_in_several_files(tmp_path)
    logic.write_bytes(logic.read_bytes()[:-40])
    with pytest.raises(FailureError, match=r"cannot read .*SIMPLE\.lib\.gz"):
        read_libraries([logic, sequential])
    logic.write_bytes(b"not packed at all")
    with pytest.raises(FailureError, match=r"SIMPLE\.lib\.gz"):
        read_libraries([logic, sequential])


def test_the_sequential_file_alone_or_missing(tmp_path: Path) -> None:
    logic, sequential = packed_in_several_files(tmp_path)
    with pytest.raises(FailureError, match="no plain flip-flop"):
        read_libraries([logic])
    with pytest.raises(FailureError, match="no inverter or no two-input gate"):
        read_libraries([sequential])


def test_a_cell_that_two_files_have_is_named(tmp_path: Path) -> None:
    (path,) = resets_only(tmp_path)
    with pytest.raises(FailureError, match="cell INVx1 of library reset was in a file before"):
        read_libraries([path, path])
