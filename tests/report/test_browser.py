"""The page in a real browser, without a network."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from studentfloat.records import StudyResult, record_to_json
from studentfloat.report import study_page
from studentfloat.report.figures import fill
from studentfloat.report.maps import frontier_rows
from studentfloat.report.points import map_points, standings
from tests.report.records import study

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")

HOSTILE = "</script><script>window.stolen = 1</script><img src=x onerror='window.stolen=2'>\"'&"


def hostile_study() -> StudyResult:
    """Two models, one of them with a name and a row that would break out of any page."""
    result = study()
    first, second = result.models
    row = second.formats[0]
    named = replace(row, name=f"sf4 {HOSTILE}")
    rows = (named, *second.formats[1:])
    renamed = replace(second, model=HOSTILE, formats=rows, differences=())
    return replace(result, models=(first, renamed), settings={"models": [HOSTILE]})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(study_page(hostile_study()), encoding="utf-8")
    return path


class Tab:
    """A page that is open, with all that it complained of and asked the network for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.context.route("**/*", self._allow_the_file_alone)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready=yes]", timeout=30_000)

    def _allow_the_file_alone(self, route: Any) -> None:
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            self.asked.append(route.request.url)
            route.abort()


@pytest.fixture(scope="module")
def opened(browser: Any, page_file: Path) -> Iterator[Tab]:
    tab = Tab(browser, page_file, viewport={"width": 1280, "height": 900})
    yield tab
    tab.context.close()


@pytest.fixture
def tab(opened: Tab) -> Iterator[Any]:
    """The study's page, with nothing chosen yet."""
    opened.page.evaluate("() => { dialog.close(); form.reset(); return update(); }")
    yield opened.page
    assert opened.said == []
    assert opened.asked == []


def points_of(page: Any) -> Any:
    return page.locator("#frontier .mark-symbol path[data-row]")


def settled(page: Any) -> None:
    page.evaluate("() => turn")


def slots(page: Any, cost: str, measure: str) -> dict[str, Any]:
    """What the page would draw among the rows that are chosen, 500 pixels wide."""
    script = """([cost, measure]) => JSON.parse(JSON.stringify(frontierSlots(
        {...chosen(), cost: axis(points.costs, cost), measure: axis(points.measures, measure)},
        500)))"""
    found: dict[str, Any] = page.evaluate(script, [cost, measure])
    return found


def choose(page: Any, name: str, value: str, checked: bool) -> None:
    page.locator(f'input[name="{name}"][value="{value}"]').set_checked(checked)
    settled(page)


def test_every_figure_is_drawn_and_says_in_words_what_it_shows(tab: Any) -> None:
    assert tab.evaluate("window.stolen") is None
    charts = tab.locator(".chart")
    # The map, a measure and the shared ones; layers, kinds, errors, laws each, pairs of one.
    assert charts.count() == tab.locator(".chart svg").count() == 1 + 2 + 2 + 2 * 4 + 1
    for chart in charts.all():
        assert len(chart.get_attribute("aria-label")) > 30
    assert points_of(tab).count() == 32
    assert tab.locator("tr[data-point]").count() == 32
    assert "<none>" in tab.locator("text=no calibration text").inner_text()


def test_filters_work_by_keyboard_and_draw_the_frontier_anew(tab: Any) -> None:
    choose(tab, "model", "small", True)
    tab.locator('input[name="model"]').nth(1).focus()
    tab.keyboard.press("Space")
    settled(tab)
    assert points_of(tab).count() == 16
    assert tab.locator("tr[data-point]:visible").count() == 16
    assert tab.locator("#shown").inner_text() == "16 of 32 rows are shown."
    choose(tab, "method", "gptq", False)
    choose(tab, "width", "8 bit", False)
    shown = tab.locator("tr[data-point]:visible td:first-child").all_inner_texts()
    assert shown == ["sf4", "nf4", "e2m1+sr", "e2m1+sp", "e2m1", "int4", "e3m0"]
    assert points_of(tab).count() == 7


def test_axes_follow_the_choice(tab: Any) -> None:
    tab.locator("select[name=cost]").select_option("bits_per_weight")
    tab.locator("select[name=measure]").select_option("piqa acc_norm")
    settled(tab)
    svg = tab.locator("#frontier").inner_html()
    assert "bits per weight, scales included" in svg
    assert "piqa acc_norm" in svg
    assert tab.locator("#frontier-caption").inner_text().startswith("Higher")
    # The model as it was is there to compare with.
    assert tab.locator("#frontier svg text", has_text="small, original").count() == 1


def test_the_page_draws_what_python_draws(tab: Any) -> None:
    """Rows, standings and labels: the script against its readable reference."""
    points = map_points(hostile_study())
    for cost in points.costs:
        for measure in points.measures:
            drawn = slots(tab, cost.key, measure.key)
            expected = json.loads(json.dumps(frontier_rows(points, cost, measure, width=500)))
            for rows in (
                drawn["@points"],
                drawn["@steps"],
                expected["@points"],
                expected["@steps"],
            ):
                for row in rows:
                    for key in ("text", "costText", "lossText"):
                        row.pop(key, None)
            assert drawn.pop("@points") == [
                pytest.approx(row) if not isinstance(row, dict) else nearly(row)
                for row in expected.pop("@points")
            ]
            drawn.pop("@steps"), expected.pop("@steps")
            assert drawn == expected


def bare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what is there for reading alone."""
    texts = {"text", "costText", "lossText"}
    return [{k: v for k, v in row.items() if k not in texts} for row in rows]


def nearly(row: dict[str, Any]) -> Any:
    return {k: pytest.approx(v) if isinstance(v, float) else v for k, v in row.items()}


def test_standings_among_a_part_of_the_rows_are_the_references(tab: Any) -> None:
    result = hostile_study()
    model = result.models[0]
    kept = tuple(row for row in model.formats if row.method == "rtn")
    points = map_points(replace(result, models=(replace(model, formats=kept),)))
    choose(tab, "method", "gptq", False)
    for cost in points.costs:
        for measure in points.measures:
            rows = slots(tab, cost.key, measure.key)["@points"]
            found = {row["name"]: row["standing"] for row in rows if row["model"] == "small"}
            assert found == standings(points, "small", cost.key, measure)


def test_templates_are_filled_as_python_fills_them(tab: Any) -> None:
    template = {"a": "@x", "layer": [{"data": {"values": "@none"}}, {"data": {"values": "@x"}}, 3]}
    slots = {"@x": [1], "@none": []}
    assert tab.evaluate("([t, s]) => fill(t, s)", [template, slots]) == fill(template, slots)


def test_hover_tells_what_a_point_is_and_a_click_opens_its_record(tab: Any) -> None:
    choose(tab, "method", "gptq", False)
    tab.locator("input[name=model]").nth(1).uncheck()
    settled(tab)
    point = tab.locator("#frontier path[aria-label^=int4]")
    point.hover()
    tooltip = tab.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "int4" in tooltip.inner_text()
    assert re.search(r"KL:?\s+0\.4", tooltip.inner_text())
    assert tab.locator("#readout").inner_text().startswith("int4 of small: KL")
    point.click()
    tab.locator("dialog[open] a").wait_for()
    assert tab.locator("dialog h2").inner_text() == "int4"


def test_keyboard_goes_from_point_to_point_and_opens_the_record(tab: Any) -> None:
    points = points_of(tab)
    assert tab.locator("#frontier path[tabindex='0']").count() == 1
    tab.locator("#frontier path[tabindex='0']").focus()
    first = tab.locator("#readout").inner_text()
    tab.keyboard.press("ArrowRight")
    second = tab.evaluate("document.activeElement.getAttribute('aria-label')")
    assert second == tab.locator("#readout").inner_text() != first
    tab.keyboard.press("Enter")
    tab.locator("dialog[open] a").wait_for()
    assert second.startswith(tab.locator("dialog h2").inner_text())
    tab.keyboard.press("Escape")
    assert tab.locator("dialog[open]").count() == 0
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')") == second
    assert points.count() == 32


def test_a_row_of_the_table_opens_the_whole_record_and_gives_its_json(tab: Any) -> None:
    row = hostile_study().models[1].formats[0]
    button = tab.locator("tr[data-point='16'] button")
    assert button.inner_text() == row.name
    button.focus()
    tab.keyboard.press("Enter")
    link = tab.locator("dialog[open] a")
    link.wait_for()
    with tab.expect_download() as download:
        link.click()
    saved = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert saved == json.loads(json.dumps(record_to_json(row)))
    text = tab.locator("dialog").inner_text()
    assert all(words in text for words in ("weight nmse", "piqa", "area relative to int4"))
    tab.locator("dialog summary", has_text="tensors").click()
    assert "model.layers.5.down_proj" in tab.locator("dialog").inner_text()
    assert tab.evaluate("window.stolen") is None


def test_tables_sort_and_leave_the_original_first(tab: Any) -> None:
    heading = tab.locator("th button", has_text="weight error")
    heading.click()
    first_body = tab.locator("table.sortable tbody").first
    assert first_body.locator("tr td:first-child").all_inner_texts()[:2] == [
        "original",
        "int8 gptq",
    ]
    heading.click()
    assert first_body.locator("tr td:first-child").all_inner_texts()[:2] == ["original", "e3m0"]
    assert tab.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_print_is_complete_light_and_without_controls(browser: Any, page_file: Path) -> None:
    opened = Tab(browser, page_file, color_scheme="dark")
    choose(opened.page, "method", "gptq", False)
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert opened.page.locator("tr[data-point]:visible").count() == 32
    assert not opened.page.locator("form.controls").is_visible()
    color = "e => getComputedStyle(e).backgroundColor"
    assert opened.page.locator("body").evaluate(color) == "rgb(255, 255, 255)"
    label = opened.page.locator("#frontier .role-axis-title text").first
    assert label.evaluate("e => getComputedStyle(e).fill") == "rgb(26, 26, 26)"
    assert opened.page.pdf()[:4] == b"%PDF"
    assert opened.said == []
    opened.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, page_file: Path, scheme: str) -> None:
    opened = Tab(browser, page_file, viewport={"width": 390, "height": 844}, color_scheme=scheme,
                 is_mobile=True, has_touch=True)  # fmt: skip
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    ink = opened.page.locator("#frontier .role-axis-title text").first
    expected = {"light": "rgb(26, 26, 26)", "dark": "rgb(232, 232, 232)"}[scheme]
    assert ink.evaluate("e => getComputedStyle(e).fill") == expected
    points_of(opened.page).first.tap(force=True)
    opened.page.locator("dialog[open] a").wait_for()
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    assert opened.said == []
    opened.context.close()


def test_a_study_whose_rows_are_not_there_yet_is_a_page_too(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "begun.html"
    result = study(("small",))
    laws_alone = replace(result.models[0], formats=(), differences=(), original_scores=())
    path.write_text(study_page(replace(result, models=(laws_alone,), done=1)), encoding="utf-8")
    context = browser.new_context(offline=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector(".chart svg")
    assert "No row has results yet" in page.locator("main").inner_text()
    assert "Degrees of freedom by layer" in page.locator("main").inner_text()
    assert said == []
    context.close()
