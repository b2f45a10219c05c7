"""Output for terminals and pipes that cannot show every character."""

from __future__ import annotations

import codecs
import sys

__all__ = ["write_what_can_be_shown"]

_HANDLER = "studentfloat.spelled"
_SPELLED = {
    **{"±": "+-", "×": "x", "·": ".", "–": "-", "−": "-", "…": "...", "≤": "<=", "≥": ">="},
    **{"²": "^2", "³": "^3", "ᵀ": "^T", "⁻": "^-", "√": "sqrt", "∞": "inf", "‖": "||"},
    **{"α": "alpha", "β": "beta", "Γ": "Gamma", "ν": "nu", "π": "pi", "Σ": "Sigma"},
    **{"µ": "u", "μ": "mu", "∝": "~", "─": "-", "┼": "+", "╫": "+", "○": "o", "●": "*", "◐": "o"},
}


def write_what_can_be_shown() -> None:
    """Let stdout and stderr spell what their encoding lacks: ν as nu, others as Python escapes."""
    codecs.register_error(_HANDLER, _spell)
    for stream in (sys.stdout, sys.stderr):
        # Whoever replaced a stream by one of their own answers for it.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    spelled = "".join(
        _SPELLED.get(c) or c.encode("unicode_escape").decode("ascii") for c in lacking
    )
    return spelled, error.end
