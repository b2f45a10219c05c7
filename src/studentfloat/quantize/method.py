"""A method as a value: steps that compose, none of which asks for a format's name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from studentfloat.errors import ConfigError
from studentfloat.quantize.gptq_options import GPTQOptions
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.steps.gptq import Gptq
from studentfloat.quantize.steps.nearest import Nearest
from studentfloat.quantize.steps.registry import STEPS, position
from studentfloat.quantize.steps.scale_search import ScaleSearch
from studentfloat.quantize.steps.step import Stage, Step, TransformStep

__all__ = ["METHOD_STEPS", "Method", "parse_method"]

METHOD_STEPS = tuple(STEPS)
"""What the steps that come with the package are called."""


@dataclass(frozen=True)
class Method:
    """Steps, sorted into the order in which they are taken.

    Two methods are equal if their steps are, however each was spelled.

    Attributes
    ----------
    name
        As it was spelled.
    steps
        In any order; a method that does not say how to round rounds to nearest.

    Raises
    ------
    ConfigError
        If two steps cannot stand beside each other.

    Examples
    --------
    >>> from studentfloat.quantize.steps import Gptq, Smooth
    >>> Method("mine", (Gptq(), Smooth(0.3))).steps[0]
    Smooth(alpha=0.3)
    """

    name: str = field(default="rtn", compare=False)
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        steps = list(self.steps)
        if not any(step.stage is Stage.ROUND for step in steps):
            steps.append(Nearest())
        steps.sort(key=position)
        for one, other in combinations(steps, 2):
            reason = one.refuses(other) or other.refuses(one)
            if reason is not None:
                raise ConfigError(f"method {self.name!r}: {reason}")
        object.__setattr__(self, "steps", tuple(steps))

    @property
    def transforms(self) -> tuple[TransformStep, ...]:
        """The steps that transform inputs."""
        return tuple(step for step in self.steps if isinstance(step, TransformStep))

    @property
    def learns_codebook(self) -> bool:
        """Whether weights take values other than those of the scheme's formats."""
        return any(step.learns_codebook for step in self.steps)

    @property
    def needs_gradients(self) -> bool:
        """Whether some step must see the loss's gradients."""
        return any(step.needs_gradients for step in self.steps)

    def on_scheme(self, scheme: Scheme) -> Scheme:
        """The scheme that the method works under: with its scale rule."""
        for step in self.steps:
            scheme = step.on_scheme(scheme)
        return scheme

    def needs_inputs(self, scheme: Scheme) -> bool:
        """Whether the method must see under a scheme what the layers are fed with.

        The one place where that is asked. The scheme's own scale rule counts only where the
        method does not bring another.
        """
        weighted = self.on_scheme(scheme).scale_rule.weighted
        return weighted or any(step.needs_inputs for step in self.steps)

    def only_rounds(self, scheme: Scheme) -> bool:
        """Whether under a scheme it only rounds to nearest, which needs no calibration."""
        plain = all(isinstance(step, Nearest | ScaleSearch) for step in self.steps)
        return plain and not self.needs_inputs(scheme)

    def check(self, scheme: Scheme) -> None:
        """Refuse what cannot go together, before anything is loaded.

        Raises
        ------
        ConfigError
            If a step cannot be taken under the scheme.
        """
        for step in self.steps:
            reason = step.refuses_scheme(scheme)
            if reason is not None:
                raise ConfigError(f"method {self.name!r}: {reason}")

    def to_json(self) -> list[dict[str, Any]]:
        """The steps as plain data: all that decides what the method does."""
        return [step.to_json() for step in self.steps]


def parse_method(text: str, options: GPTQOptions | None = None) -> Method:
    """A method from its spelling: steps joined by ``+``.

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
        If a step is unknown, has a value that cannot be, or cannot stand beside another.

    Examples
    --------
    >>> [step.spelling for step in parse_method("rank=16+gptq+x2-mse").steps]
    ['x2-mse', 'gptq', 'rank']
    """
    steps = [_parse_step(part.strip(), text) for part in text.split("+")]
    if options is not None:
        steps = [replace(s, options=options) if isinstance(s, Gptq) else s for s in steps]
    return Method(text, tuple(steps))


def _parse_step(part: str, method: str) -> Step:
    spelling, _, value = part.partition("=")
    if spelling not in STEPS:
        raise ConfigError(
            f"method {method!r}: no step is called {spelling!r}; steps are "
            f"{', '.join(STEPS)}, joined by '+'"
        )
    try:
        return STEPS[spelling].parse(spelling, value)
    except ValueError as error:
        raise ConfigError(f"method {method!r}: {spelling}={value}: {error}") from None


def without_inputs(scheme: Scheme) -> tuple[Scheme, Method]:
    """What is done to a weight whose inputs are not known: to nearest, by an unweighted rule."""
    plain = scheme.unweighted
    rule = plain.scale_rule
    if rule.name == "absmax":
        return plain, Method()
    steps: Iterable[Step] = (ScaleSearch(rule),)
    return plain, Method(rule.name, tuple(steps))
