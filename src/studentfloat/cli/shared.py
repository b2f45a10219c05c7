"""Options that several subcommands share, and what they come to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from studentfloat.models import Trust

__all__ = ["calibration_options", "path_text", "trust_options", "trust_remote_code", "trusted"]

Command = TypeVar("Command", bound=Callable[..., Any])

trust_remote_code = click.option(
    "--allow-remote-code-execution",
    is_flag=True,
    help="Run Python code that comes with the model, which can do anything.",
)


def trust_options(command: Command) -> Command:
    """What a checkpoint may do beyond giving numbers: nothing, unless asked for."""
    pickle = click.option(
        "--allow-pickle-code-execution",
        is_flag=True,
        help="Load pickled weights, which can run any code on this machine.",
    )
    return pickle(trust_remote_code(command))


def trusted(options: dict[str, Any]) -> Trust:
    """The trust that was given; a command without the option gives none."""
    from studentfloat.models import Trust

    return Trust(
        pickle=options.get("allow_pickle_code_execution", False),
        remote_code=options.get("allow_remote_code_execution", False),
    )


def calibration_options(command: Command) -> Command:
    """What text methods are calibrated on."""
    text = click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        help="What methods are calibrated on: a UTF-8 file, a data set as "
        "hub:owner/name,split=train,field=text, or a standard text: docstrings, c4, code, "
        "technical, articles-calibration. Default: a mixture of those, none of which is in the "
        "default evaluation texts.",
    )
    windows = click.option(
        "--calibration-windows", default=32, show_default=True, help="How many windows of it."
    )
    length = click.option(
        "--calibration-length", default=512, show_default=True, help="Tokens in each of those."
    )
    return text(windows(length(command)))


def path_text(given: Path | None) -> str | None:
    """A path as text, where one was given."""
    return None if given is None else str(given)
