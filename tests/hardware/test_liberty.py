from __future__ import annotations

import re
from pathlib import Path

import pytest

from studentfloat.errors import ConfigError, FailureError
from studentfloat.hardware.cost import library_key, load_library
from studentfloat.hardware.generic_library import TAU_NS, generic_liberty
from studentfloat.hardware.liberty import Library, Table, parse_liberty, read_libraries
from tests.hardware.tools import OSU018, needs_osu018


def test_the_built_in_library_has_textbook_areas(library: Library) -> None:
    areas = {name: cell.area for name, cell in library.cells.items()}
    # Columns of transistor pairs and one more, NAND2 being 3.
    assert areas["NAND2_X1"] == pytest.approx(1.0, abs=1e-4)
    assert areas["INV_X1"] == pytest.approx(2 / 3, abs=1e-4)
    assert areas["XOR2_X1"] == pytest.approx(2.0, abs=1e-4)
    assert areas["DFF_X1"] == pytest.approx(13 / 3, abs=1e-4)
    assert library.area_unit == "GE"


def test_the_built_in_delays_are_logical_effort(library: Library) -> None:
    (arc,) = library.cells["INV_X1"].pins["Y"].arcs
    # An inverter that drives four of its own: parasitic 1 and effort 4.
    assert arc.tables["cell_rise"](0.0, 4.0) == pytest.approx(5 * TAU_NS)
    nand = library.cells["NAND2_X1"].pins["Y"].arcs[0]
    assert nand.tables["cell_fall"](0.0, 4 / 3) == pytest.approx((2 + 4 / 3) * TAU_NS)


def test_tables_are_linear_between_and_beyond_their_points() -> None:
    table = Table((0.0, 1.0), (0.0, 10.0), ((1.0, 2.0), (3.0, 6.0)))
    assert table(0.5, 5.0) == pytest.approx(3.0)
    assert table(0.0, 20.0) == pytest.approx(3.0)
    assert table(2.0, 0.0) == pytest.approx(5.0)
    assert Table((), (), ((7.0,),))(3.0, 4.0) == 7.0
    assert Table((), (1.0, 2.0), ((1.0, 5.0),))(9.0, 1.5) == pytest.approx(3.0)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_truncated_file_is_named(share: float, tmp_path: Path) -> None:
    text = generic_liberty()
    path = tmp_path / "half.lib"
    path.write_text(text[: int(len(text) * share)])
    with pytest.raises(FailureError, match=r"half\.lib.*"):
        read_libraries([path])


def test_a_library_without_flip_flop_is_refused(tmp_path: Path) -> None:
    text = generic_liberty()
    start = text.index("  cell (DFF_X1)")
    path = tmp_path / "logic.lib"
    path.write_text(text[:start] + "}\n")
    with pytest.raises(FailureError, match="no plain flip-flop"):
        read_libraries([path])


def test_what_is_not_liberty_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello world, this is not a library")
    with pytest.raises(FailureError, match=r"notes\.txt"):
        read_libraries([path])
    with pytest.raises(FailureError, match="cannot read"):
        read_libraries([tmp_path / "absent.lib"])
    path.write_text("")
    with pytest.raises(FailureError, match="has 0 libraries"):
        read_libraries([path])


def test_comments_continuations_and_nested_groups() -> None:
    text = """/* a comment */ library (x) { // another
      define ("a", "b", "c");
      time_unit : "1ps";
      cell (INV) { area : 1.5; pin (A) { direction : input; }
        pin (Y) { direction : output; function : "(!A)";
          timing () { related_pin : "A"; cell_rise (scalar) { values ( \\
             "1.0"); } } } }
    }"""
    library = parse_liberty(text)
    (cell,) = library.each("cell")
    assert cell.attributes["area"] == "1.5"
    assert [pin.arguments for pin in cell.each("pin")] == [("A",), ("Y",)]


@needs_osu018
def test_a_real_library_is_read() -> None:
    library = read_libraries([OSU018])
    assert library.area_unit == "um2"
    flop = library.cells["DFFPOSX1"]
    assert flop.plain_flop
    assert flop.area == 96
    assert not library.cells["DFFSR"].plain_flop
    assert library.cells["NAND2X1"].pins["A"].capacitance_ff == pytest.approx(12.5)


def test_an_attribute_ends_with_its_line(tmp_path: Path) -> None:
    """ASAP7's files leave semicolons out; OpenSTA and Yosys read them."""
    text = generic_liberty()
    bare = re.sub(r";[ \t]*\n", "\n", text)
    assert bare != text
    plain, read = parse_liberty(text), parse_liberty(bare)
    assert read.attributes == plain.attributes
    for one, other in zip(plain.each("cell"), read.each("cell"), strict=True):
        assert one.attributes == other.attributes
        assert [pin.attributes for pin in one.each("pin")] == [
            pin.attributes for pin in other.each("pin")
        ]


@pytest.mark.parametrize("end", ['  date : "Mon', "  /* and so", "  cell (NEXT"])
def test_what_ends_in_the_middle_is_told_as_truncated(end: str, tmp_path: Path) -> None:
    text = generic_liberty()
    path = tmp_path / "half.lib"
    path.write_text(text[: text.index("  cell (DFF_X1)")] + end)
    with pytest.raises(FailureError, match="truncated"):
        read_libraries([path])


def test_cells_not_to_be_used(tmp_path: Path) -> None:
    path = tmp_path / "generic.lib"
    path.write_text(generic_liberty())
    avoided = read_libraries([path], ["NAND*", "XOR2_X1"])
    marked = {name for name, cell in avoided.cells.items() if cell.dont_use}
    assert "XOR2_X1" in marked
    assert "NAND2_X1" in marked
    assert "INV_X1" not in marked
    with pytest.raises(ConfigError, match="'NANDD\\*': no cell"):
        read_libraries([path], ["NANDD*"])
    settings = tmp_path / "config.mk"
    settings.write_text("export X = 1\nexport DONT_USE_CELLS = NAND* \\\n  XOR2_X1\nexport Y = 2\n")
    listed = load_library([path], [str(settings)])
    assert {name for name, cell in listed.cells.items() if cell.dont_use} == marked
    assert library_key(listed) == library_key(avoided) != library_key(read_libraries([path]))


def test_several_files_have_one_short_name(tmp_path: Path) -> None:
    text = generic_liberty()
    start = text.index("  cell (DFF_X1)")
    head = text[: text.index("  cell (")]
    parts = {"lib_ff_tt": head + text[start:], "lib_simple_tt": text[:start] + "}\n"}
    paths = []
    for name, part in parts.items():
        paths.append(tmp_path / f"{name}.lib")
        paths[-1].write_text(re.sub(r"library \(\w+\)", f"library ({name})", part, count=1))
    assert read_libraries(paths).name == "lib (2 files)"
