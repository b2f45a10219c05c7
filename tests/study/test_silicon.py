from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from studentfloat.errors import StudentFloatError
from studentfloat.formats import Format, get_format, save_format
from studentfloat.formats.rounded import rounded_format
from studentfloat.records import Comparison, record_from_json, record_to_json
from studentfloat.report import comparison_page, comparison_rows
from studentfloat.report.table import notes, silicon_rows
from studentfloat.study import CompareOptions, HardwareOptions, compare
from studentfloat.study.ranking import rank_rows
from tests import tiny

pytest.importorskip("pyosys")

FORMATS = ("int3", "e2m0", "sf3", "sf3@signed-absmax")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> CompareOptions:
    directory = tiny.save(tiny.llama, tmp_path_factory.mktemp("llama") / "m")
    return CompareOptions(
        model=str(directory),
        formats=FORMATS,
        windows=3,
        window_length=16,
        hardware=HardwareOptions(),
    )


@pytest.fixture(scope="module")
def comparison(options) -> Comparison:
    return compare(options)


HELD = {"sf3": "sf3-fixed8", "sf3@signed-absmax": "sf3-fixed8@signed-absmax"}


def test_what_a_unit_holds_has_silicon_and_rows_of_one_format_share_it(comparison) -> None:
    silicon = {row.name: row for row in comparison.hardware}
    assert {row.name for row in comparison.formats} == {*FORMATS, *HELD.values()}
    assert set(silicon) == {"int3", "e2m0", *HELD.values()}
    assert all(row.proved and row.area > 0 and row.delay_ns > 0 for row in comparison.hardware)
    alike = [replace(silicon[name], name="x", energy_real_fj=None) for name in HELD.values()]
    assert alike[0] == alike[1]
    assert silicon["sf3-fixed8"].lookup_bits == 8
    assert silicon["int3"].lookup_bits is None
    assert silicon["int3"].area < silicon["sf3-fixed8"].area


def test_rows_are_of_exact_values_and_what_silicon_holds_is_a_row_of_its_own(
    comparison, options
) -> None:
    rows = {row.name: row for row in comparison.formats}
    assert rows["sf3"].values == get_format("sf3").levels
    assert (rows["sf3"].lookup_bits, rows["sf3"].exact) == (None, None)
    held = rows["sf3-fixed8"]
    assert held.values == rounded_format(get_format("sf3"), 8).levels
    assert (held.lookup_bits, held.exact) == (8, "sf3")
    assert held.weight_nmse != rows["sf3"].weight_nmse
    bare = compare(replace(options, hardware=None))
    without = {row.name: row for row in bare.formats}
    assert set(without) == set(FORMATS)
    for name, row in without.items():
        assert replace(rows[name], hardware=(), cells=row.cells) == row  # its rank too
    exact = [p for p in comparison.differences if not {p.first, p.second} & set(HELD.values())]
    assert tuple(exact) == bare.differences


def test_energy_is_on_the_codes_that_meet(comparison) -> None:
    silicon = {row.name: row for row in comparison.hardware}
    for row in silicon.values():
        assert row.energy_real_fj is not None
        assert row.energy_real_fj != row.energy_fj
        assert row.energy_spread_fj < 0.25 * row.energy_fj
        assert "14 linear layers" in row.codes
    (found,) = [found for found in comparison.frontiers if found.cost == "energy_fj"]
    for point in found.points:
        assert point.cost == silicon[point.name].energy_real_fj
        assert point.cost_error == silicon[point.name].energy_spread_fj


def test_without_a_text_energy_is_on_uniform_codes_and_that_is_said(options) -> None:
    bare = compare(replace(options, weights_only=True, formats=("int3",)))
    assert bare.hardware[0].energy_real_fj is None
    assert bare.hardware[0].energy_fj > 0
    assert any("uniform codes only: with --weights-only" in line for line in bare.cautions)


def test_frontiers_are_of_the_ranking_measure(comparison) -> None:
    assert [found.cost for found in comparison.frontiers] == [
        "area",
        "energy_fj",
        "bits_per_weight",
    ]
    assert {found.loss for found in comparison.frontiers} == {"kl"}
    for found in comparison.frontiers:
        held = {"int3", "e2m0", *HELD.values()}
        on_it = set(FORMATS) if found.cost == "bits_per_weight" else held
        assert {point.name for point in found.points} == on_it
        assert any(point.standing == "frontier" for point in found.points)
        assert [p.cost for p in found.points] == sorted(p.cost for p in found.points)


def test_without_hardware_only_bits_are_a_cost(comparison) -> None:
    bare = [replace(row, hardware=()) for row in comparison.formats]
    frontiers = rank_rows(bare, 0).frontiers
    assert [found.cost for found in frontiers] == ["bits_per_weight"]
    assert silicon_rows(replace(comparison, formats=tuple(bare)))[1] == []


def test_it_is_shown(comparison) -> None:
    headings, rows = silicon_rows(comparison)
    assert headings[-2:] == ["KL (nats)", "kl/area"]
    assert {row[0] for row in rows} == {"int3", "e2m0", *HELD.values()}
    # The first table has the formats, each with the values that `quantize` packs.
    assert {row[1] for row in comparison_rows(comparison)[1]} == set(FORMATS)
    text = "\n".join(notes(comparison))
    assert "sf3-fixed8: sf3 in 8-bit fixed point, as silicon holds it." in text
    assert "on uniform codes and on those that meet in 14 linear layers of" in text
    assert "Frontier of kl against area:" in text
    page = comparison_page(comparison)
    assert 'data-figure="figure-breakdown"' in page
    table = page[page.index('<table class="sortable">') :]
    names = re.findall(r'data-open="\d+">([^<]+)<', table)
    # What silicon holds stands right below the format.
    assert names[names.index("sf3") + 1] == "sf3-fixed8"
    assert 'title="sf3 as silicon holds it"' in table


def test_it_survives_json(comparison) -> None:
    data = json.loads(json.dumps(record_to_json(comparison), allow_nan=False))
    assert record_from_json(Comparison, data) == comparison


def test_what_hardware_cannot_hold_is_said_and_the_rest_is_costed(options, tmp_path) -> None:
    wide = Format.from_values([-(2.0**50), -1.0, 0.0, 1.0, 2.0**50], name="wide")
    save_format(wide, tmp_path / "wide.toml")
    asked = replace(options, weights_only=True, formats=("int3", str(tmp_path / "wide.toml")))
    found = compare(asked)
    assert {row.name for row in found.formats} == {"int3", "wide"}
    assert {row.name for row in found.hardware} == {"int3"}
    assert any("wide is not costed in silicon" in caution for caution in found.cautions)


def test_several_formats_have_no_one_unit(options) -> None:
    asked = ("e2m0|int3", "int3", "trellis3")
    found = compare(replace(options, weights_only=True, formats=asked))
    assert {row.name for row in found.hardware} == {"int3"}
    several = "e2m0|int3, trellis3: several formats each, or codes of several numbers"
    assert any(several in caution for caution in found.cautions)
    errors = {row.name: row.weight_nmse for row in found.formats}
    assert errors["trellis3"] < 0.02 < errors["int3"]


def test_a_bad_library_is_named_before_anything_is_written(options, tmp_path) -> None:
    (tmp_path / "broken.lib").write_text("library (x) { cell (")
    with pytest.raises(StudentFloatError, match="bogus"):
        compare(replace(options, model="/nowhere", hardware=HardwareOptions(units=("bogus",))))
    broken = replace(
        options, model="/nowhere", hardware=HardwareOptions(liberty=(str(tmp_path / "broken.lib"),))
    )
    with pytest.raises(StudentFloatError, match=r"broken\.lib"):
        compare(broken)
