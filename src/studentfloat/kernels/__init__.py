"""Fast paths under quantizing: products with packed weights, beside a readable reference.

C++ for AVX-512, AVX2 and any other processor, chosen at run time; see docs/kernels.md.
Importing this loads no torch; arrays may be torch's or NumPy's.
"""

from studentfloat.kernels.dispatch import instruction_set, instruction_sets, use_instruction_set
from studentfloat.kernels.packed_matrix import PackedMatrix

__all__ = [
    "PackedMatrix",
    "instruction_set",
    "instruction_sets",
    "use_instruction_set",
]
