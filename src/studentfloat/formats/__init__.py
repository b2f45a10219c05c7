"""Number formats of 2 to 8 bits: values, families, derivations, the catalog, TOML."""

from studentfloat.formats.catalog import CATALOG, PUBLISHED_ELEVEN, get_format
from studentfloat.formats.families import additive_powers_of_two, e2m1_b, e2m1_i, integer, minifloat
from studentfloat.formats.format import Format, IntegerGrid
from studentfloat.formats.lloyd import block_optimal, lloyd_max, power_density
from studentfloat.formats.quantiles import normal_float, quantile_format, student_float
from studentfloat.formats.toml import (
    format_from_toml,
    format_to_toml,
    load_format,
    resolve_format,
    save_format,
)

__all__ = [
    "CATALOG",
    "PUBLISHED_ELEVEN",
    "Format",
    "IntegerGrid",
    "additive_powers_of_two",
    "block_optimal",
    "e2m1_b",
    "e2m1_i",
    "format_from_toml",
    "format_to_toml",
    "get_format",
    "integer",
    "lloyd_max",
    "load_format",
    "minifloat",
    "normal_float",
    "power_density",
    "quantile_format",
    "resolve_format",
    "save_format",
    "student_float",
]
