from __future__ import annotations

import json
from dataclasses import replace

import pytest

from studentfloat.errors import StudentFloatError
from studentfloat.formats import Format, get_format
from studentfloat.formats.rounded import rounded_format
from studentfloat.records import Comparison, record_from_json, record_to_json
from studentfloat.report import comparison_page, comparison_rows
from studentfloat.report.table import notes, silicon_rows
from studentfloat.study import CompareOptions, HardwareOptions, compare
from studentfloat.study.silicon import with_frontiers, with_hardware
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


def test_every_row_has_its_silicon_and_rows_of_one_format_share_it(comparison) -> None:
    silicon = {row.name: row for row in comparison.hardware}
    assert set(silicon) == {row.name for row in comparison.formats} == set(FORMATS)
    assert all(row.proved and row.area > 0 and row.delay_ns > 0 for row in comparison.hardware)
    alike = [
        replace(silicon[name], name="x", energy_real_fj=None)
        for name in ("sf3", "sf3@signed-absmax")
    ]
    assert alike[0] == alike[1]
    assert silicon["sf3"].lookup_bits == 8
    assert silicon["int3"].lookup_bits is None
    assert silicon["int3"].area < silicon["sf3"].area


def test_quality_is_of_the_values_that_the_silicon_holds(comparison, options) -> None:
    rows = {row.name: row for row in comparison.formats}
    assert rows["sf3"].values == rounded_format(get_format("sf3"), 8).levels
    assert rows["sf3"].lookup_bits == 8
    assert rows["int3"].lookup_bits is None
    exact = compare(replace(options, hardware=None, formats=("sf3", "int3")))
    bare = {row.name: row for row in exact.formats}
    assert bare["sf3"].values == get_format("sf3").levels
    assert bare["sf3"].weight_nmse != rows["sf3"].weight_nmse
    assert bare["int3"].weight_nmse == rows["int3"].weight_nmse


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
    assert any("uniform codes only: with --weights-only" in line for line in bare.cautions)


def test_frontiers_are_of_the_ranking_measure(comparison) -> None:
    assert [found.cost for found in comparison.frontiers] == [
        "area",
        "energy_fj",
        "bits_per_weight",
    ]
    assert {found.loss for found in comparison.frontiers} == {"kl"}
    for found in comparison.frontiers:
        assert {point.name for point in found.points} == set(FORMATS)
        assert any(point.standing == "frontier" for point in found.points)
        assert [p.cost for p in found.points] == sorted(p.cost for p in found.points)


def test_without_hardware_only_bits_are_a_cost(comparison) -> None:
    bare = with_frontiers(replace(comparison, hardware=()))
    assert [found.cost for found in bare.frontiers] == ["bits_per_weight"]
    assert silicon_rows(replace(bare, formats=comparison.formats))[1] == []


def test_it_is_shown(comparison) -> None:
    headings, rows = silicon_rows(comparison)
    assert headings[-1] == "kl/area"
    assert len(rows) == len(FORMATS)
    assert len(comparison_rows(comparison)[1]) == 4
    text = "\n".join(notes(comparison))
    assert "(8-bit): a format without an integer grid, rounded to 8-bit fixed point" in text
    assert "on uniform codes and on those that meet in 14 linear layers of" in text
    for shown in (rows, comparison_rows(comparison)[1]):
        names = {name for row in shown for name in row if name.startswith(("sf3", "int3"))}
        assert names == {"sf3 (8-bit)", "sf3@signed-absmax (8-bit)", "int3"}
    assert "Frontier of kl against area:" in text
    assert 'data-figure="figure-breakdown"' in comparison_page(comparison)


def test_it_survives_json(comparison) -> None:
    data = json.loads(json.dumps(record_to_json(comparison), allow_nan=False))
    assert record_from_json(Comparison, data) == comparison


def test_what_hardware_cannot_hold_is_said_and_the_rest_is_costed(comparison) -> None:
    wide = Format.from_values([-(2.0**50), -1.0, 0.0, 1.0, 2.0**50], name="wide")
    found = with_hardware(comparison, [("int3", get_format("int3")), ("e2m0", wide)])
    assert {row.name for row in found.hardware} == {"int3"}
    assert any("e2m0 is not costed in silicon" in caution for caution in found.cautions)


def test_a_bad_library_is_named_before_anything_is_written(options, tmp_path) -> None:
    (tmp_path / "broken.lib").write_text("library (x) { cell (")
    with pytest.raises(StudentFloatError, match="bogus"):
        compare(replace(options, model="/nowhere", hardware=HardwareOptions(unit="bogus")))
    broken = replace(
        options, model="/nowhere", hardware=HardwareOptions(liberty=(str(tmp_path / "broken.lib"),))
    )
    with pytest.raises(StudentFloatError, match=r"broken\.lib"):
        compare(broken)
