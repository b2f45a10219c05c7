"""Codes of several numbers: trellises, vectors, their names and files."""

from __future__ import annotations

import math

import numpy as np
import pytest

from studentfloat.errors import FormatError
from studentfloat.formats import (
    CODES,
    ByteSum,
    Convolution,
    DrawnTable,
    E8Lattice,
    Points,
    Table,
    Trellis,
    VectorFormat,
    code_from_toml,
    code_to_toml,
    distortion,
    fit_points,
    format_from_toml,
    get_code,
    get_format,
    resolve_code,
    shannon_bound,
)
from studentfloat.formats.vectors import _e8_magnitudes

# What each should reach on a normal source, in units of Shannon's bound. A random table of 2**12
# states is at 1.17, 1.25 and 1.38; E8P at .089 (QuIP#, table 1).
RATIOS = {
    "trellis1": 1.09,
    "trellis2": 1.125,
    "trellis3": 1.155,
    "trellis4": 1.20,
    "e8p": 1.49,
    "vq-d2-k256": 2.25,
    "vq-d4-k256": 1.67,
}


@pytest.mark.parametrize("name", RATIOS)
def test_distortion_is_near_the_bound(name: str) -> None:
    code = get_code(name)
    ratio = distortion(code) / shannon_bound(code.bits)
    assert 1 < ratio < RATIOS[name]


def test_more_states_and_a_fitting_law_serve_better() -> None:
    assert distortion(get_code("trellis2-s16")) < 0.985 * distortion(get_code("trellis2"))
    assert distortion(get_code("trellis2-nu5"), 5) < 0.9 * distortion(get_code("trellis2"), 5)
    assert distortion(get_code("trellis2")) < distortion(get_code("trellis2-nu5"))


def test_bound_is_shannons() -> None:
    assert shannon_bound(2) == 1 / 16
    # A t of many degrees of freedom is a normal; one of few has less entropy at its variance.
    assert math.isclose(shannon_bound(2, 1e5), 1 / 16, rel_tol=1e-3)
    assert 0.5 / 16 < shannon_bound(2, 3) < 0.8 / 16
    # The best scalar format of 4 bits (Max, 1960): .009497 for a normal of variance 1.
    assert math.isclose(distortion(get_format("nf4")), 0.0099, rel_tol=0.05)


@pytest.mark.parametrize(
    "generator",
    [
        Convolution((0x2C5, 0x1F2, 0x331), 4.5),
        ByteSum(34038481, 76625530),
        DrawnTable(7),
        DrawnTable(7, 5.0),
        Table(tuple(range(-128, 128)) * 4),
    ],
)
def test_trellis_files_are_exact(generator) -> None:
    code = Trellis("mine", 2, 10, generator, 31.25, 64, "of my own", "nowhere")
    back = code_from_toml(code_to_toml(code))
    assert back == code
    assert hash(back) == hash(code)
    assert (back.description, back.source) == ("of my own", "nowhere")
    np.testing.assert_array_equal(back.values, code.values)
    assert code.values.std() > 20
    assert code.table_bits == (8 * 1024 if isinstance(generator, Table) else 0)


def test_files_of_the_other_kinds(tmp_path) -> None:
    points = Points(((-1.0, 0.5), (1.0, 0.5), (0.25, -1.0)))
    code = VectorFormat("mine", (points, points), (1.0, 0.4))
    assert code_from_toml(code_to_toml(code)) == code
    assert code.bits == 2
    assert code.table_bits == 2 * 3 * 2 * 16
    (tmp_path / "mine.toml").write_text(code_to_toml(get_code("e8p")))
    assert resolve_code(tmp_path / "mine.toml") == get_code("e8p")
    assert resolve_code("nf4") == get_format("nf4")
    assert code_from_toml(code_to_toml(get_format("sf4"))) == get_format("sf4")


def test_drawn_tables_are_the_same_everywhere() -> None:
    assert DrawnTable(1).values(9)[:8].tolist() == DRAWN
    assert DrawnTable(2).values(9)[:8].tolist() != DRAWN


DRAWN = [-26, 55, 12, -49, 4, 7, -50, -14]


def test_lattice_points_are_the_lattices() -> None:
    magnitudes, _ = _e8_magnitudes()
    lengths = (magnitudes**2).sum(axis=1)
    assert np.count_nonzero(lengths <= 10) == 227
    assert np.count_nonzero(lengths == 12) == 29
    points = E8Lattice().look_up(np.arange(1 << 16))
    assert len(np.unique(points, axis=0)) == 1 << 16
    # A quarter less or more than half-odd numbers with an even sum.
    shifted = points - np.where(np.arange(1 << 16) & 1, -0.25, 0.25)[:, None]
    assert (shifted % 1 == 0.5).all()
    assert (shifted.sum(axis=1) % 2 == 0).all()


def test_k_means_finds_clusters_and_obeys_weights() -> None:
    random = np.random.default_rng(0)
    centers = np.array([[4, 0], [-4, 1], [0, 5]], dtype=np.float32)
    vectors = np.repeat(centers, 50, axis=0) + random.normal(0, 0.1, (150, 2)).astype(np.float32)
    found = np.array(fit_points(vectors, 3, seed=1).points)
    assert sorted(np.rint(found).tolist()) == sorted(centers.tolist())
    weights = np.r_[np.ones(50), np.zeros(100)]
    alone = np.array(fit_points(vectors, 2, weights=weights).points)
    assert np.abs(alone - centers[0]).max(axis=1).min() < 0.2


def test_residual_stages_add_up() -> None:
    code = get_code("vq-d4-k256-k256")
    numbers = np.random.default_rng(3).standard_normal((500, 4), dtype=np.float32)
    indices = code.encode(numbers)
    first, second = code.stages
    np.testing.assert_allclose(
        code.decode(indices), first.look_up(indices[:, 0]) + second.look_up(indices[:, 1])
    )
    alone = np.mean((numbers - first.look_up(indices[:, 0])) ** 2)
    assert np.mean((numbers - code.decode(indices)) ** 2) < 0.2 * alone


@pytest.mark.parametrize("name", CODES)
def test_names_resolve_and_scalars_are_asked_for(name: str) -> None:
    code = get_code(name.upper())
    assert code.name == name
    with pytest.raises(FormatError, match="encodes several numbers together"):
        get_format(name)
    with pytest.raises(FormatError, match="encodes several numbers together"):
        format_from_toml(code_to_toml(code))


def trellis(**changed) -> Trellis:
    parts = {"bits": 2, "state_bits": 12, "generator": DrawnTable(0), "unit": 40.0} | changed
    return Trellis("mine", **parts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trellis(bits=5), "has 5 bits: a whole number from 1 to 4"),
        (lambda: trellis(state_bits=17), "states of 17 bits: at 2 bits a number, 7 to 16"),
        (lambda: trellis(bits=4, state_bits=8), "states of 8 bits: at 4 bits a number, 9 to 16"),
        (lambda: trellis(length=5), "no fewer bits than a state, 12"),
        (lambda: trellis(unit=math.nan), "the unit nan: a number above 0"),
        (lambda: trellis(generator=Table((1,) * 8)), "a table of 8 entries for 4096 states"),
        (lambda: trellis(generator=Table((0,) * 4096)), "all its values are zero"),
        (lambda: trellis(generator=Convolution((1 << 13, 3))), "needs more than 12 bits"),
        (lambda: Convolution((1,)), "1 taps: a convolution has 2 to 8"),
        (lambda: Table((128,)), "table entry 128: whole numbers from -128 to 127"),
        (lambda: DrawnTable(0, 0.0), "0.0 degrees of freedom: a number above 0"),
        (lambda: trellis().encode(np.ones((2, 8))), "not an array of shape"),
        (lambda: trellis().encode(np.full((1, 256), np.nan)), "256 of 256 numbers are NaN"),
        (lambda: trellis().decode(np.ones((2, 8), np.uint8)), "decodes uint8 of shape"),
        (lambda: Points(((1.0, 2.0), (1.0,))), "points of 2 and of 1 coordinates"),
        (lambda: Points(((1.0, 2.0),)), "1 points: a table has 2 to 65536"),
        (lambda: Points(((1.0, 2.0), (1.0, math.inf))), "not finite"),
        (lambda: VectorFormat("mine", (E8Lattice(),), ()), "1 stages and 0 scales"),
        (lambda: get_code("e8p").encode(np.ones((2, 7))), "encodes vectors of 8 numbers"),
        (lambda: get_code("trellis2-s13"), "states have 12 (-s12) or 16 (-s16) bits"),
        (lambda: get_code("vq-d9-k16"), "has 9 dimensions: 2 to 8"),
        (lambda: get_code("vq-d4-k1"), "a stage of 1 points: 2 to 4096"),
        (lambda: get_code("trelis2"), "did you mean trellis2"),
        (lambda: code_from_toml("kind = 'tree'"), "has the kind 'tree': 'trellis', 'vectors'"),
        (lambda: code_from_toml("kind = 'trellis'\nbits = 2"), "has no key 'state_bits'"),
        (lambda: code_from_toml("kind = 'vectors'\nscale = 1"), "did you mean 'scales'"),
    ],
)
def test_misuse_is_told_in_one_line(make, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
