"""Named formats: the paper's eleven, their relatives, and families by pattern."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

from studentfloat.errors import FormatError
from studentfloat.formats.families import additive_powers_of_two, e2m1_b, e2m1_i, integer, minifloat
from studentfloat.formats.format import Format
from studentfloat.formats.lloyd import block_optimal
from studentfloat.formats.quantiles import normal_float, student_float, tail_probability
from studentfloat.formats.rounded import rounded_format

__all__ = ["CATALOG", "PUBLISHED_ELEVEN", "get_format"]

PUBLISHED_ELEVEN = (
    "int4",
    "e2m1-i",
    "e2m1-b",
    "e2m1",
    "e2m1+sr",
    "e2m1+sp",
    "e3m0",
    "apot4",
    "apot4+sp",
    "nf4",
    "sf4",
)
"""The formats on the quality/area map of arXiv 2405.03103."""

_PAPER = "Dotzel et al., ICML 2024, arXiv 2405.03103"
_OCP_MX = "OCP Microscaling Formats (MX) v1.0"
_OCP_FP8 = "OCP 8-bit Floating Point (OFP8) v1.0"

# llama.cpp's table, on an int8 grid: facts of a file format, not derivable.
_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _apot4(name: str, negative_zero: float | None = None) -> Format:
    return additive_powers_of_two(
        (-1, -2, -4), (-3,), largest=1.0, negative_zero=negative_zero, name=name
    )


def _student_law(degrees_of_freedom: float, block_size: int, rule: str, name: str) -> Format:
    from scipy.stats import t

    return block_optimal(t(degrees_of_freedom), 4, block_size, rule, name=name)


def _normal_law(rule: str, name: str) -> Format:
    from scipy.stats import norm

    return block_optimal(norm(), 4, 64, rule, name=name)


def _cited(make: Callable[[], Format], source: str) -> Callable[[], Format]:
    def build() -> Format:
        plain = make()
        return plain.renamed(plain.name, source=source)

    return build


_FACTORIES: dict[str, Callable[[], Format]] = {
    **{
        f"int{bits}": (lambda bits=bits: integer(bits))  # type: ignore[misc]
        for bits in range(2, 9)
    },
    "e2m1-i": _cited(e2m1_i, f"{_PAPER}; intel/neural-compressor"),
    "e2m1-b": _cited(e2m1_b, f"{_PAPER}; bitsandbytes"),
    "e2m1": _cited(lambda: minifloat(2, 1), f"{_OCP_MX}; {_PAPER}"),
    "e2m1+sr": _cited(lambda: minifloat(2, 1, negative_zero=8, name="e2m1+sr"), f"{_PAPER}"),
    "e2m1+sp": _cited(lambda: minifloat(2, 1, negative_zero=5, name="e2m1+sp"), f"{_PAPER}"),
    "e2m1-nosub": _cited(lambda: minifloat(2, 1, subnormals=False, name="e2m1-nosub"), f"{_PAPER}"),
    "e3m0": _cited(lambda: minifloat(3, 0), f"{_PAPER}"),
    "apot4": _cited(lambda: _apot4("apot4"), f"arXiv 1909.13144; {_PAPER}"),
    "apot4+sp": _cited(lambda: _apot4("apot4+sp", 0.5), f"{_PAPER}"),
    "nf4": lambda: normal_float(4),
    "sf4": lambda: student_float(4, 5, name="sf4"),
    **{
        f"sf4-nu{nu}": (lambda nu=nu: student_float(4, nu))  # type: ignore[misc]
        for nu in range(3, 8)
    },
    "nf3": lambda: normal_float(3),
    # The published 3-bit table was made with the 4-bit tail probability.
    "sf3": lambda: student_float(3, 5, tail=tail_probability(4), name="sf3"),
    "sf3-nozero": lambda: student_float(3, 5, zero=False, name="sf3-nozero"),
    "e2m0": _cited(lambda: minifloat(2, 0), f"{_PAPER}"),
    "e1m2": _cited(lambda: minifloat(1, 2), "sign-magnitude integers over 2"),
    "iq4_nl": lambda: Format.from_values(
        _IQ4_NL,
        name="iq4_nl",
        description="llama.cpp's non-linear 4-bit table",
        source="ggml: kvalues_iq4nl",
    ),
    "e2m3": _cited(lambda: minifloat(2, 3), f"{_OCP_MX} (FP6)"),
    "e3m2": _cited(lambda: minifloat(3, 2), f"{_OCP_MX} (FP6)"),
    "e4m3": _cited(lambda: minifloat(4, 3, specials="nan"), f"{_OCP_FP8}"),
    "e5m2": _cited(lambda: minifloat(5, 2, specials="ieee"), f"{_OCP_FP8}"),
    "bof4": lambda: _normal_law("absmax", "bof4"),
    "bof4-s": lambda: _normal_law("signed-absmax", "bof4-s"),
    "bo4-nu11": lambda: _student_law(11, 128, "absmax", "bo4-nu11"),
    "bos4-nu11": lambda: _student_law(11, 128, "signed-absmax", "bos4-nu11"),
}

CATALOG: Mapping[str, Callable[[], Format]] = MappingProxyType(_FACTORIES)
"""Name to factory, in the order that ``studentfloat formats`` lists them."""

_NUMBER = r"(\d+(?:\.\d+)?|inf)"


def _rounded(name: str, bits: str) -> Format:
    return rounded_format(get_format(name), int(bits))


_PATTERNS: tuple[tuple[str, str, Callable[..., Format]], ...] = (
    (r"int([2-8])-symmetric", "intB-symmetric", lambda b: integer(int(b), symmetric=True)),
    (r"uint([2-8])", "uintB", lambda b: integer(int(b), signed=False)),
    (rf"sf([2-8])-nu{_NUMBER}", "sfB-nuV", lambda b, nu: student_float(int(b), float(nu))),
    (r"nf([2-8])", "nfB", lambda b: normal_float(int(b))),
    (r"e([1-6])m([0-6])", "eEmM", lambda e, m: minifloat(int(e), int(m))),
    (r"(.+)-fixed(\d+)", "NAME-fixedB", _rounded),
    (
        rf"bo4-nu{_NUMBER}-b(\d+)",
        "bo4-nuV-bN",
        lambda nu, b: _student_law(float(nu), int(b), "absmax", f"bo4-nu{nu}-b{b}"),
    ),
    (
        rf"bos4-nu{_NUMBER}-b(\d+)",
        "bos4-nuV-bN",
        lambda nu, b: _student_law(float(nu), int(b), "signed-absmax", f"bos4-nu{nu}-b{b}"),
    ),
)

PATTERNS = tuple(shown for _, shown, _ in _PATTERNS)
"""Families that can be named with their parameters: ``sf5-nu6.5``, ``bo4-nu8-b64`` ..."""


@lru_cache(maxsize=256)
def get_format(name: str) -> Format:
    """Return the format of that name (case does not matter).

    Parameters
    ----------
    name
        A catalog entry, or a family with its parameters such as ``sf4-nu6.5``
        (Student Float, ν = 6.5), ``int5-symmetric``, ``e3m3``, ``bo4-nu8-b64``
        (block-optimal for Student's t with ν = 8 and blocks of 64; ``bos4`` for the
        signed-absmax rule).

    Raises
    ------
    FormatError
        If no format bears the name; the message suggests the nearest.
    """
    key = name.strip().lower()
    if key in _FACTORIES:
        return _FACTORIES[key]()
    for pattern, _, make in _PATTERNS:
        match = re.fullmatch(pattern, key)
        if match:
            return make(*match.groups())
    from studentfloat.formats.codes import CODES, find_code

    if find_code(name) is not None:
        raise FormatError(
            f"{name!r} encodes several numbers together: here a format of single numbers is "
            "needed, such as nf4"
        )
    near = difflib.get_close_matches(key, [*_FACTORIES, *CODES], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "none is like it;"
    raise FormatError(
        f"no format is called {name!r}: {hint} `studentfloat formats` lists all; "
        "a file of your own must end in .toml"
    )
