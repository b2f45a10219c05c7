"""Number formats of 2 to 8 bits: values, families, derivations, the catalog, TOML.

Beside them codes that round several numbers together: vectors, and trellises, which have memory.
"""

from studentfloat.formats.catalog import CATALOG, PUBLISHED_ELEVEN, get_format
from studentfloat.formats.codes import CODES, AnyFormat, get_code, get_trellis, get_vectors
from studentfloat.formats.codes_toml import code_from_toml, code_to_toml, resolve_code
from studentfloat.formats.distortion import distortion, shannon_bound
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
from studentfloat.formats.trellis import ByteSum, Convolution, DrawnTable, Table, Trellis
from studentfloat.formats.vectors import E8Lattice, Points, VectorFormat, fit_points

__all__ = [
    "CATALOG",
    "CODES",
    "PUBLISHED_ELEVEN",
    "AnyFormat",
    "ByteSum",
    "Convolution",
    "DrawnTable",
    "E8Lattice",
    "Format",
    "IntegerGrid",
    "Points",
    "Table",
    "Trellis",
    "VectorFormat",
    "additive_powers_of_two",
    "block_optimal",
    "code_from_toml",
    "code_to_toml",
    "distortion",
    "e2m1_b",
    "e2m1_i",
    "fit_points",
    "format_from_toml",
    "format_to_toml",
    "get_code",
    "get_format",
    "get_trellis",
    "get_vectors",
    "integer",
    "lloyd_max",
    "load_format",
    "minifloat",
    "normal_float",
    "power_density",
    "quantile_format",
    "resolve_code",
    "resolve_format",
    "save_format",
    "shannon_bound",
    "student_float",
]
