"""What a study file may say, what cells follow from it, and under which addresses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from studentfloat.errors import ConfigError, FailureError, FormatError, StudentFloatError
from studentfloat.formats import Format, get_format, save_format
from studentfloat.formats.rounded import rounded_format
from studentfloat.records import TextSource, record_from_json, record_to_json
from studentfloat.study.options import ORIGINAL, StudyOptions
from studentfloat.study.plan import HARDWARE, LAWS, QUALITY, Plan, make_plan
from studentfloat.study.resolve import Resolution, ResolvedModel
from studentfloat.study.sweep.study_file import parse_study, read_study_file

STUDIES = Path(__file__).parents[2] / "studies"

SMALL = """
models = ["a/b"]
formats = ["nf4", "sf4"]
[quality]
"""


def known(**models: str) -> Resolution:
    found = tuple(ResolvedModel(id, sha256=sha, bytes=len(sha)) for id, sha in models.items())
    return Resolution(models=found, texts=(TextSource("t", "t"),), versions={"torch": "1"})


def of_one_text(study: str) -> str:
    """The study, measured on one text where it does not say which."""
    quality = study.partition("[quality]")[2].partition("\n[")[0]
    asked = any(line.startswith("text") for line in quality.splitlines())
    return study if asked else study.replace("[quality]", "[quality]\ntexts = ['pydoc']", 1)


def plan_of(text: str, resolution: Resolution | None = None, **options) -> Plan:
    return make_plan(parse_study(of_one_text(text), **options), resolution)


def addresses(text: str, resolution: Resolution | None = None, **options) -> dict[str, str]:
    plan = plan_of(text, resolution or known(m="x"), **options)
    return {f"{c.configuration.name} {c.evaluation}": c.address for c in plan.cells}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("formatss = []", "unknown key 'formatss': did you mean 'formats'"),
        ("zzz = 1", "unknown key 'zzz': known are name, title"),
        (SMALL + "windws = 3", "'quality' has the unknown key 'windws': did you mean 'windows'"),
        (SMALL + "windows = 0", "'windows' must be a whole number from 1 up, not 0"),
        (SMALL + "windows = true", "'windows' must be a whole number"),
        (SMALL + "text = 3", "'text' must be a text, not 3"),
        (SMALL + 'text = "nowhere.txt"', "there is no file .*nowhere.txt"),
        (SMALL + 'text = "hub:x,splt=y"', "'splt=y' is none of"),
        ("laws = 1", "'laws' must be true or false, not 1"),
        ("formats = 'nf4'", "'formats' must be a list, not 'nf4'"),
        ("formats = ['nf4', 'nf4']", "'formats' holds 'nf4' twice"),
        ("formats = [", "not valid TOML"),
        ("name = '../../x'\n" + SMALL, "'name' must be a name for a directory .*'../../x'"),
        ("name = '..'\n" + SMALL, "'name' must be a name for a directory"),
        ('name = "a\\u0000b"\n' + SMALL, "'name' must be a name for a directory"),
        ("name = '" + "x" * 101 + "'\n" + SMALL, "up to 100 characters"),
        ("seed = 1" + "0" * 5000 + "\n" + SMALL, "a number of thousands of digits"),
        ("name = " + "[" * 5000, "nested deeper than 64 levels"),
        ("formats = []", "no 'formats'"),
        ("formats = ['nf4']", "nothing to evaluate"),
        ("formats = ['nf4']\nlaws = true", "no 'models'"),
        ("formats = ['nf44']\nmodels = ['m']\nlaws = true", "did you mean nf4"),
        ("formats = ['nf4@bigest']\nmodels = ['m']\nlaws = true", "'bigest'"),
        ("methods = ['gtpq']\n" + SMALL, "no step is called 'gtpq'"),
        ("methods = []\n" + SMALL, "no 'methods'"),
        ("activations = ['int99']\n" + SMALL, "int99"),
        ("kv = ['same']\n" + SMALL, "no format is called 'same'"),
        ("schemes = []\n" + SMALL, "'schemes' is empty"),
        ("schemes = [{block_size = 0}]\n" + SMALL, "'block_size' must be a whole number"),
        ("schemes = [{scale_dtype = 'e8m1'}]\n" + SMALL, "scale dtype 'e8m1'"),
        ("schemes = [{}, {}]\n" + SMALL, "'nf4' is given twice"),
        (SMALL + "[tasks]\nlimit = 3", "'tasks' has no key 'names'"),
        (SMALL + "[tasks]\nnames = ['piqua']", "did you mean piqa"),
        (SMALL + "[tasks]\nnames = ['piqa']\ndata = 'nowhere'", "no directory .*nowhere"),
        (SMALL + "[hardware]\nunits = ['mak']", "mak"),
        (SMALL + "[hardware]\nliberty = ['x.lib']", "there is no file .*x.lib"),
        (SMALL + "[hardware]\nreal_codes = true\nactivations = 'int8'", "leave one of the two out"),
        (SMALL + "text = 'pydoc'\ntexts = ['articles']", "both 'text' and 'texts'"),
        (SMALL + "texts = ['pydoc', 'pydoc']", "'texts' holds 'pydoc' twice"),
        (SMALL + "[calibration]\nwindow_length = 1", "'window_length' must be a whole number"),
        (SMALL + "[[exclude]]", "empty table"),
        (SMALL + "[[exclude]]\nfomat = 'nf4'", "unknown key 'fomat': did you mean 'format'"),
        (SMALL + "[[exclude]]\nformat = 'sf5'", "no format here is 'sf5': did you mean 'sf4'"),
        (SMALL + "[[exclude]]\nevaluation = 'piqa'", "no evaluation here is 'piqa'"),
        (SMALL + "[[exclude]]\nformat = [true]", "a text, a number or a list"),
        ("models = [{name = 'x'}]\n", "a model has no 'id'"),
        ("formats = ['nf4']\nlaws = true\nmodels = ['a', {id = 'b', name = 'a'}]", "called 'a'"),
    ],
)
def test_mistakes_are_named(text, message) -> None:
    with pytest.raises(StudentFloatError, match=message) as caught:
        parse_study(text, where="my.toml")
    assert str(caught.value).startswith("my.toml")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(FailureError, match="cannot read the study file"):
        read_study_file(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_study_file(tmp_path / "bad.toml")


def test_the_grid_and_its_order() -> None:
    plan = plan_of(
        """
        models = ["large", "small", "absent"]
        formats = ["nf4", "sf4@signed-absmax"]
        methods = ["gptq", "rtn"]
        activations = ["none", "same"]
        kv = ["none", "int8"]
        laws = true
        [quality]
        [tasks]
        names = ["piqa"]
        [hardware]
        units = ["mac", "dot16"]
        """,
        known(large="xxxx", small="x"),
    )
    small = [c.configuration for c in plan.cells if c.configuration.model == "small"]
    names = [configuration.name for configuration in small if configuration.exact is None]
    # The original first, then plain rounding, then what is calibrated.
    assert list(dict.fromkeys(names)) == [
        "original",
        "nf4",
        "nf4 kv:int8",
        "nf4 a:nf4",
        "nf4 a:nf4 kv:int8",
        "sf4@signed-absmax",
        "sf4@signed-absmax kv:int8",
        "sf4@signed-absmax a:sf4@signed-absmax",
        "sf4@signed-absmax a:sf4@signed-absmax kv:int8",
        "nf4 gptq",
        "nf4 gptq kv:int8",
        "nf4 gptq a:nf4",
        "nf4 gptq a:nf4 kv:int8",
        "sf4@signed-absmax gptq",
        "sf4@signed-absmax gptq kv:int8",
        "sf4@signed-absmax gptq a:sf4@signed-absmax",
        "sf4@signed-absmax gptq a:sf4@signed-absmax kv:int8",
    ]
    # Silicon holds neither format as it is: each row has one more of what it holds.
    held = {c.exact: c.name for c in small if c.exact is not None}
    assert len(held) == len(set(held.values())) == 16
    assert held["nf4 a:nf4 kv:int8"] == "nf4-fixed8 a:nf4-fixed8 kv:int8"
    assert held["sf4@signed-absmax gptq"] == "sf4-fixed8@signed-absmax gptq"
    models = list(dict.fromkeys(c.configuration.model for c in plan.cells))
    assert models == ["small", "large", "absent", ""]  # by size; the unknown last; silicon
    assert [c.evaluation for c in plan.groups[0].cells] == [QUALITY, "piqa", LAWS]
    silicon = [(c.configuration.name, c.unit) for c in plan.cells if c.evaluation == HARDWARE]
    assert silicon == [("nf4 mac", "mac"), ("nf4 dot16", "dot16"), ("sf4 mac", "mac"),
                       ("sf4 dot16", "dot16")]  # fmt: skip
    assert len(plan.cells) == 3 * (33 * 2 + 1) + 4
    assert len(plan.by_address) == len(plan.cells)


def test_exclusions_and_filters() -> None:
    text = """
        models = ["a", "b"]
        formats = ["nf4", "sf4"]
        methods = ["rtn", "gptq"]
        [quality]
        [[exclude]]
        format = "nf4"
        method = "gptq"
        [[exclude]]
        model = "b"
        format = ["original", "nf4"]
        """
    plan = plan_of(text)
    left = [(c.configuration.model, c.configuration.name) for c in plan.cells]
    assert left == [("a", "original"), ("a", "nf4"), ("a", "sf4"), ("a", "sf4 gptq"),
                    ("b", "sf4"), ("b", "sf4 gptq")]  # fmt: skip
    assert plan.excluded == 4
    only = make_plan(parse_study(of_one_text(text)), only=({"method": ["gptq"], "model": "a"},))
    assert [c.configuration.name for c in only.cells] == ["sf4 gptq"]


def test_addresses_are_of_values_not_of_names(tmp_path) -> None:
    save_format(get_format("sf4").renamed("mine"), tmp_path / "mine.toml")
    text = "models = ['m']\nformats = ['sf4', 'sf4-nu5', 'mine.toml']\n[quality]\n"
    found = addresses(text, base=tmp_path)
    assert found["sf4 quality"] == found["sf4-nu5 quality"] == found["mine quality"]
    plan = plan_of(text, known(m="x"), base=tmp_path)
    assert plan.twins == 2
    assert len(plan.by_address) == 2
    save_format(Format.from_values([-1, 0, 1], name="mine"), tmp_path / "mine.toml")
    assert addresses(text, base=tmp_path)["mine quality"] != found["mine quality"]


@pytest.mark.parametrize(
    "changed",
    [
        "[quality]\nwindows = 13",
        "[quality]\nwindow_length = 385",
        "schemes = [{block_size = 64}]\n[quality]",
        "schemes = [{scale_rule = 'mse'}]\n[quality]",
        "schemes = [{scale_dtype = 'float32'}]\n[quality]",
        "activations = ['int8']\n[quality]",
        "kv = ['int8']\n[quality]",
        "embeddings = true\n[quality]",
        "head = true\n[quality]",
        "methods = ['mse']\n[quality]",
        "methods = ['gptq']\n[quality]\n[calibration]\nwindows = 33",
        "methods = ['gptq']\n[quality]",
    ],
)
def test_whatever_changes_numbers_changes_the_address(changed) -> None:
    def of_sf4(rest: str, resolution: Resolution) -> str:
        plan = plan_of(f"models = ['m']\nformats = ['sf4']\n{rest}", resolution)
        return plan.cells[-1].address

    before = known(m="x")
    assert of_sf4(changed, before) != of_sf4("[quality]", before)
    assert of_sf4(changed, before) == of_sf4(changed, before)
    if "calibration" in changed:
        assert of_sf4(changed, before) != of_sf4("methods = ['gptq']\n[quality]", before)
    other_text = replace(before, texts=(TextSource("t", "u"),))
    other_torch = replace(before, versions={"torch": "2"})
    for resolution in (known(m="y"), other_text, other_torch):
        assert of_sf4(changed, resolution) != of_sf4(changed, before)


def test_what_does_not_concern_a_cell_leaves_its_address() -> None:
    plain = addresses("models = ['m']\nformats = ['sf4']\n[quality]")
    more = addresses(
        "title = 'x'\nname = 'y'\nmodels = ['m']\nformats = ['sf4', 'nf4']\nlaws = true\n"
        "methods = ['rtn', 'gptq']\n[quality]\n[calibration]\nwindows = 99"
    )
    assert more["sf4 quality"] != more["sf4 gptq quality"]
    assert plain["original quality"] in more.values()
    assert plain["sf4 quality"] in more.values()


def test_silicon_decides_which_values_are_measured() -> None:
    def sf4(text: str):
        return plan_of(f"models = ['m']\nformats = ['sf4', 'int4']\n[quality]\n{text}").groups

    plain, costed = sf4(""), sf4("[hardware]\nlookup_bits = 6")
    exact, held, int4 = (group.variant for group in costed[1:4])
    assert exact.scheme.formats == plain[1].variant.scheme.formats
    assert costed[1].cells[0].address == plain[1].cells[0].address
    assert (held.name, held.exact) == ("sf4-fixed6", exact)
    assert held.scheme.format.levels == rounded_format(get_format("sf4"), 6).levels
    assert (held.configuration.lookup_bits, held.configuration.exact) == (6, "sf4")
    assert "sf4 in 6-bit fixed point" in held.note
    assert (int4.name, int4.configuration.lookup_bits) == ("int4", None)  # exact as it is
    assert [exact.silicon_format, held.silicon_format] == [None, get_format("sf4")]


def test_each_text_is_a_cell_and_none_measures_weights_alone() -> None:
    two = replace(known(m="x"), texts=(TextSource("t", "t"), TextSource("u", "u")))
    text = "models = ['m']\nformats = ['sf4']\n[quality]\n"
    both = plan_of(text + "texts = ['pydoc', 'articles']", two)
    assert [(c.configuration.name, c.text) for c in both.cells] == [
        *((ORIGINAL, 0), (ORIGINAL, 1), ("sf4", 0), ("sf4", 1)),
    ]
    assert len({group.index for group in both.groups}) == 2  # weights are quantized once
    alone = plan_of(text + "text = 'pydoc'", known(m="x"))
    assert {c.address for c in alone.cells} == {c.address for c in both.cells if c.text == 0}
    weights = plan_of(text + "texts = []", known(m="x"))
    assert [c.text for c in weights.cells] == [None, None]


def test_real_codes_make_a_cell_of_silicon_for_each_model_and_row() -> None:
    text = "models = ['a', 'b']\nformats = ['int4', 'sf4']\n[hardware]\nreal_codes = true"
    silicon = [c for c in plan_of(text).cells if c.evaluation == HARDWARE]
    assert [(c.configuration.model, c.configuration.name) for c in silicon] == [
        *(("a", "int4"), ("a", "sf4-fixed8"), ("b", "int4"), ("b", "sf4-fixed8")),
    ]
    assert len({c.address for c in silicon}) == 4


def test_what_silicon_holds_is_left_out_with_its_format() -> None:
    text = "models = ['m']\nformats = ['sf4', 'int4']\n[quality]\n[hardware]\n"
    rest = plan_of(text + "[[exclude]]\nformat = 'sf4'\nevaluation = 'quality'")
    assert [c.configuration.name for c in rest.cells if c.evaluation == QUALITY] == [
        *(ORIGINAL, "int4"),
    ]
    only = make_plan(parse_study(of_one_text(text)), only=({"format": ["sf4"]},))
    assert [c.configuration.name for c in only.cells] == ["sf4", "sf4-fixed8", "sf4"]
    alone = plan_of(text + "[[exclude]]\nformat = 'sf4-fixed8'")
    assert [c.configuration.name for c in alone.cells if c.evaluation == QUALITY] == [
        *(ORIGINAL, "sf4", "int4"),
    ]


def test_options_survive_the_store(tmp_path) -> None:
    save_format(Format.from_values([-1, 0, 0.5, 1], name="mine"), tmp_path / "mine.toml")
    options = parse_study(
        "models = ['m', {id = 'n', name = 'N'}]\nformats = ['sf4', 'mine.toml@mse', 'nf4|int4']\n"
        "activations = ['none', 'same']\nlaws = true\n[quality]\n[tasks]\nnames = ['piqa']\n"
        "[hardware]\n[[exclude]]\nformat = ['sf4']\nblock_size = 128",
        base=tmp_path,
    )
    data = json.loads(json.dumps(record_to_json(options)))
    (tmp_path / "mine.toml").unlink()  # a worker elsewhere has no such file
    again = record_from_json(StudyOptions, data)
    assert again == options
    assert [c.address for c in make_plan(again).cells] == [
        c.address for c in make_plan(options).cells
    ]


@pytest.mark.parametrize(
    ("name", "cells"),
    [("quick", 14), ("sensitivity", 13), ("smollm2-tasks", 68), ("paper", 5553)],
)
def test_the_studies_that_ship(name, cells) -> None:
    plan = make_plan(read_study_file(STUDIES / f"{name}.toml"))
    assert len(plan.cells) == cells
    for group in plan.groups:
        its = group.cells[0].configuration
        assert (its.method, its.activations) != ("smooth=0.5", None)


def test_quick_has_tasks_if_their_data_is_given(tmp_path) -> None:
    options = read_study_file(STUDIES / "quick.toml")
    assert options.tasks is None
    assert "no data is given" in options.notes[0]
    with_data = read_study_file(STUDIES / "quick.toml", data=tmp_path)
    assert with_data.tasks.data == str(tmp_path)
    assert len(make_plan(with_data).cells) == 14 + 2 * 8


def test_the_paper_is_eleven_formats_on_language_models_of_its_list() -> None:
    import tomllib

    listed = tomllib.loads((STUDIES / "paper-networks.toml").read_text())["network"]
    ids = {network["id"]: network["name"] for network in listed if "id" in network}
    options = read_study_file(STUDIES / "paper.toml")
    assert {model.id: model.name for model in options.models}.items() <= ids.items()
    assert len(options.formats) == 11


def test_a_hundred_thousand_cells() -> None:
    models = [f"m{i}" for i in range(20)]
    formats = [f"sf4-nu{i / 10 + 2:g}" for i in range(500)]
    text = (
        f"models = {json.dumps(models)}\nformats = {json.dumps(formats)}\n"
        "methods = ['rtn', 'gptq']\n[quality]\n[tasks]\n"
        "names = ['piqa', 'arc_easy', 'boolq', 'winogrande']\n"
    )
    plan = plan_of(text, known(**{m: m for m in models}))
    assert len(plan.by_address) == len(plan.cells) == 20 * 1001 * 5


def test_the_command_plans(tmp_path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(of_one_text(SMALL))
    command = [sys.executable, "-m", "studentfloat", "study", "plan", str(file)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    data = json.loads(done.stdout)
    assert [cell["name"] for cell in data["cells"]] == [ORIGINAL, "nf4", "sf4"]
    file.write_text("formatss = []")
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert "did you mean 'formats'?" in failed.stderr


def test_formats_of_one_name_and_different_values_are_refused(tmp_path) -> None:
    save_format(Format.from_values([-1, 0, 1], name="sf4"), tmp_path / "fake.toml")
    with pytest.raises(ConfigError, match="two different formats are called 'sf4'"):
        parse_study("models = ['m']\nformats = ['sf4', 'fake.toml']\n[quality]", base=tmp_path)
    with pytest.raises(FormatError, match="cannot read"):
        parse_study("models = ['m']\nformats = ['gone.toml']\n[quality]", base=tmp_path)
