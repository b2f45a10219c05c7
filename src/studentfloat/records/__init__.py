"""Results as frozen records, and their JSON on disk.

Units are in the names. A record file carries ``"schema": "<kind>/<version>"``;
readers refuse a kind or version that they do not know.
"""

from studentfloat.records.comparison import (
    AreaBreakdown,
    Baseline,
    Comparison,
    FormatHardware,
    FormatQuality,
    Frontier,
    FrontierPoint,
    PairedDifference,
    Standing,
)
from studentfloat.records.evaluation import Evaluation
from studentfloat.records.files import (
    read_json,
    record_from_json,
    record_to_json,
    write_json,
    write_text_atomically,
)
from studentfloat.records.profile import (
    Histogram,
    LawFit,
    LawFits,
    Profile,
    ProfileSummary,
    QuantilePairs,
    TensorProfile,
)
from studentfloat.records.provenance import Provenance
from studentfloat.records.study import (
    LayerLaw,
    StudyCell,
    StudyConfiguration,
    StudyFailure,
    StudyModel,
    StudyResult,
    StudyRow,
    TaskScore,
)
from studentfloat.records.tensors import (
    PackedModel,
    SkippedTensor,
    TensorError,
    TensorQuantization,
    Verification,
)

__all__ = [
    "AreaBreakdown",
    "Baseline",
    "Comparison",
    "Evaluation",
    "FormatHardware",
    "FormatQuality",
    "Frontier",
    "FrontierPoint",
    "Histogram",
    "LawFit",
    "LawFits",
    "LayerLaw",
    "PackedModel",
    "PairedDifference",
    "Profile",
    "ProfileSummary",
    "Provenance",
    "QuantilePairs",
    "SkippedTensor",
    "Standing",
    "StudyCell",
    "StudyConfiguration",
    "StudyFailure",
    "StudyModel",
    "StudyResult",
    "StudyRow",
    "TaskScore",
    "TensorError",
    "TensorProfile",
    "TensorQuantization",
    "Verification",
    "read_json",
    "record_from_json",
    "record_to_json",
    "write_json",
    "write_text_atomically",
]
