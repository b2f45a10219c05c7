from __future__ import annotations

import numpy as np
import pytest

from studentfloat.errors import ConfigError, DataError
from studentfloat.evaluate import EvaluationText
from studentfloat.formats import get_format
from studentfloat.formats.rounded import rounded_format
from studentfloat.hardware.cache import ContentCache
from studentfloat.models import find_model
from studentfloat.quantize import Scheme
from studentfloat.study import code_pairs as module
from studentfloat.study.code_pairs import code_pairs_of_model, hardware_code_pairs, held_format
from tests import tiny

TEXT = EvaluationText("the quick brown fox jumps over the lazy dog " * 20, "a text")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.save(tiny.llama, tmp_path_factory.mktemp("codes") / "llama")


def test_marginals_are_those_of_the_tensors(directory, tmp_path, monkeypatch) -> None:
    scheme = Scheme("e2m1", 16)
    found = code_pairs_of_model(
        find_model(str(directory)),
        {"e2m1": (scheme, scheme)},
        text=TEXT,
        cache=ContentCache(tmp_path),
    )
    counts = found.counts["e2m1"]
    layers = 2 * (4 * 48 * 48 - 2 * 48 * 24 + 3 * 48 * 80)  # with two key-value heads of four
    assert counts.sum() == layers * 2 * 128
    assert "14 linear layers of" in found.codes
    assert "a text" in found.codes
    # Blocks of absmax scales reach the format's ends, and numbers near zero are many.
    of_code = dict(zip(scheme.format.codes, scheme.format.values, strict=True))
    by_value = {abs(of_code[c]): counts[c].sum() for c in of_code}
    assert by_value[6.0] > 0.02 * counts.sum()

    monkeypatch.setattr(module, "_entered_layers", lambda *_: pytest.fail("run again"))
    again = code_pairs_of_model(
        find_model(str(directory)),
        {"e2m1": (scheme, scheme)},
        text=TEXT,
        cache=ContentCache(tmp_path),
    )
    np.testing.assert_array_equal(again.counts["e2m1"], counts)
    assert again.codes == found.codes


def test_mixed_operands_and_looked_up_formats_for_each_row(
    directory, monkeypatch, tmp_path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = hardware_code_pairs(
        str(directory),
        [get_format("sf3"), get_format("int4")],
        lookup_bits=(8, 12),
        activations="int8",
    )
    assert {name: counts.shape for name, counts in found.counts.items()} == {
        "sf3": (8, 256),
        "sf3-fixed12": (8, 256),
        "int4": (16, 256),
    }
    with pytest.raises(ConfigError, match="fp16 codes: there are too many"):
        hardware_code_pairs(str(directory), [], lookup_bits=(8,), activations="fp16")


def test_a_model_that_reads_no_text_has_no_codes(tmp_path) -> None:
    directory = tiny.save(tiny.vit, tmp_path / "vit", tokenizer=False)
    scheme = Scheme("int4")
    found = code_pairs_of_model(
        find_model(str(directory)),
        {"int4": (scheme, scheme)},
        text=TEXT,
        cache=ContentCache(tmp_path / "cache"),
    )
    assert not found.counts
    assert "no tokenizer" in found.problem
    with pytest.raises(DataError, match=r"no codes of .*no tokenizer"):
        hardware_code_pairs(str(directory), [get_format("e2m0")], lookup_bits=(8,))


def test_the_values_that_silicon_holds() -> None:
    int4, nf4 = get_format("int4"), get_format("nf4")
    assert held_format(int4, 8) is int4
    held = held_format(nf4, 8)
    assert held.levels == rounded_format(nf4, 8).levels != nf4.levels
    assert (held.name, held.codes) == ("nf4", nf4.codes)
