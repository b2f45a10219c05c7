"""How work says how far it is: one type for the whole package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress", "silent"]

Progress: TypeAlias = Callable[[float, str], None]
"""Called with the share of the work that is done, from 0 to 1, and with what is being done now."""


def silent(share: float, what: str) -> None:
    """Report nothing: the default of every function that takes a :data:`Progress`."""
