"""Every exception that studentfloat raises on purpose.

::

    StudentFloatError
    ├── UsageError (also ValueError)     what was asked cannot be: exit code 2
    │   ├── FormatError                  a number format that cannot exist, or no such name
    │   ├── SchemeError                  a scheme whose parts do not fit together
    │   └── ConfigError                  a setting, flag or configuration key
    └── FailureError                     what was asked could not be done: exit code 1
        ├── DataError                    a tensor or text that cannot be used (NaN, empty)
        ├── ModelError                   a model that cannot be found, read or walked
        │   └── PickledWeightsError      its weights are pickled, and that was not allowed
        └── MissingDependencyError       an optional package or tool that is not installed

Messages are one line, name the offending value, and say what would be right.
The command line prints them as they are, without a traceback. What a file put into a name and
no terminal should be sent (line breaks, escape sequences, halves of characters) is escaped.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Text on one line: all that is not printable escaped as Python escapes it."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


class StudentFloatError(Exception):
    """Base of all exceptions raised on purpose by studentfloat."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class UsageError(StudentFloatError, ValueError):
    """What was asked for cannot be: a mistake in the call."""

    exit_code = 2


class FormatError(UsageError):
    """A number format that cannot exist, or a name that no format has."""


class SchemeError(UsageError):
    """A quantization scheme whose parts do not fit together."""


class ConfigError(UsageError):
    """A setting that is unknown or out of range."""


class FailureError(StudentFloatError):
    """What was asked for is sound but could not be done."""


class DataError(FailureError):
    """A tensor or a text that cannot be used."""


class ModelError(FailureError):
    """A model that cannot be found, read or walked."""


class PickledWeightsError(ModelError):
    """A model whose weights are pickled, where running code from a file was not allowed."""


class MissingDependencyError(FailureError):
    """An optional package or tool that is not installed."""

    @classmethod
    def for_extra(cls, package: str, extra: str) -> MissingDependencyError:
        """Say which extra brings the package that is missing."""
        return cls(f"{package} is not installed: pip install 'studentfloat[{extra}]'")
