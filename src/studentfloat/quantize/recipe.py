"""What a method does, as a value: steps that compose, none of which asks for a format's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from studentfloat.errors import ConfigError
from studentfloat.quantize.options import GPTQOptions
from studentfloat.quantize.scheme import SCALE_RULES

__all__ = ["METHOD_STEPS", "Recipe", "parse_method"]


@dataclass(frozen=True)
class Recipe:
    """Steps of a method, in the order in which they are taken.

    Attributes
    ----------
    name
        As it was spelled.
    smooth
        SmoothQuant's α: what share of the difficulty moves from inputs to weights; None
        leaves inputs as they are.
    awq
        Search a scale per input channel under the scheme itself.
    clip
        Search how much of each block's range to give up, by the error of the layer's output.
    outliers
        Share of weights kept in 16 bits.
    codebooks
        How many codebooks are learned per tensor; 0 keeps the scheme's formats.
    row_codebooks
        Learn one codebook per row.
    scale_rule
        In place of the scheme's; None keeps that.
    rounding
        "nearest", or "gptq".
    gptq
        How GPTQ goes about it.
    rank, rank_bits
        Rank of the correction of what rounding left, 0 for none, and the bits it is stored in.
    """

    name: str = "rtn"
    smooth: float | None = None
    awq: bool = False
    clip: bool = False
    outliers: float = 0.0
    codebooks: int = 0
    row_codebooks: bool = False
    scale_rule: str | None = None
    rounding: Literal["nearest", "gptq"] = "nearest"
    gptq: GPTQOptions = field(default_factory=GPTQOptions)
    rank: int = 0
    rank_bits: int = 16

    @property
    def is_nearest(self) -> bool:
        """Whether it only rounds to nearest, under scales that need no calibration."""
        return self == Recipe(name=self.name, scale_rule=self.scale_rule, gptq=self.gptq) and not (
            self.needs_inputs
        )

    @property
    def needs_inputs(self) -> bool:
        """Whether it must see what the layers are fed with."""
        weighted = self.scale_rule is not None and SCALE_RULES[self.scale_rule].weighted
        transforms = self.smooth is not None or self.awq or self.clip
        return transforms or weighted or self.rounding == "gptq"


def parse_method(text: str, options: GPTQOptions | None = None) -> Recipe:
    """A recipe from its spelling: steps joined by ``+``.

    Parameters
    ----------
    text
        ``rtn``, ``gptq``, ``x2-mse+gptq``, ``smooth=0.5+gptq+rank=16``: see
        :data:`METHOD_STEPS`. The order in which steps are written does not matter.
    options
        How GPTQ goes about it.

    Raises
    ------
    ConfigError
        If a step is unknown, given twice or has a value that cannot be.

    Examples
    --------
    >>> recipe = parse_method("x2-mse+gptq+rank=16")
    >>> recipe.scale_rule, recipe.rounding, recipe.rank
    ('x2-mse', 'gptq', 16)
    """
    recipe = Recipe(name=text, gptq=options or GPTQOptions())
    seen: set[str] = set()
    for part in text.split("+"):
        key, _, value = part.strip().partition("=")
        if key not in _STEPS:
            raise ConfigError(
                f"method {text!r}: no step is called {key!r}; steps are "
                f"{', '.join(METHOD_STEPS)}, joined by '+'"
            )
        kind = "scale rule" if key in SCALE_RULES else key
        if kind in seen:
            raise ConfigError(f"method {text!r}: two steps of the kind {kind!r}")
        seen.add(kind)
        try:
            recipe = _STEPS[key](recipe, value)
        except ValueError as error:
            raise ConfigError(f"method {text!r}: {key}={value}: {error}") from None
    if recipe.row_codebooks and recipe.codebooks:
        raise ConfigError(f"method {text!r}: codebooks per tensor or per row, not both")
    return recipe


def _plain(**changes: object) -> Callable[[Recipe, str], Recipe]:
    def step(recipe: Recipe, value: str) -> Recipe:
        if value:
            raise ValueError("this step takes no value")
        return replace(recipe, **changes)  # type: ignore[arg-type]

    return step


def _number(
    field_name: str, least: float, most: float, kind: type[int] | type[float], default: str = ""
) -> Callable[[Recipe, str], Recipe]:
    def step(recipe: Recipe, value: str) -> Recipe:
        try:
            number = kind(value or default)
        except ValueError:
            raise ValueError(f"a number from {least:g} to {most:g}") from None
        if not least <= number <= most:
            raise ValueError(f"a number from {least:g} to {most:g}")
        return replace(recipe, **{field_name: number})  # type: ignore[arg-type]

    return step


_STEPS: dict[str, Callable[[Recipe, str], Recipe]] = {
    "rtn": _plain(),
    "gptq": _plain(rounding="gptq"),
    "awq": _plain(awq=True, clip=True),
    "smooth": _number("smooth", 0, 1, float, "0.5"),
    "lloyd": _number("codebooks", 1, 16, int, "1"),
    "lloyd-row": _plain(row_codebooks=True),
    "outliers": _number("outliers", 0, 0.5, float),
    "rank": _number("rank", 1, 4096, int),
    "rank8": _number("rank", 1, 4096, int),
    **{rule: _plain(scale_rule=rule) for rule in SCALE_RULES},
}
_rank = _STEPS["rank8"]
_STEPS["rank8"] = lambda recipe, value: replace(_rank(recipe, value), rank_bits=8)

METHOD_STEPS = tuple(_STEPS)
"""Steps that a method is spelled with."""
