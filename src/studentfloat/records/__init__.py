"""Results as frozen records, and their JSON on disk.

Units are in the names. A record file carries ``"schema": "<kind>/<version>"``;
readers refuse a kind or version that they do not know.
"""

from studentfloat.records.comparison import (
    Comparison,
    Frontier,
    FrontierPoint,
    LayerLaw,
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
from studentfloat.records.hardware import AreaBreakdown, FormatHardware
from studentfloat.records.metrics import METRICS, Measurement, Metric, OnText
from studentfloat.records.profile import (
    Histogram,
    LawFit,
    LawFits,
    Profile,
    ProfileSummary,
    QuantilePairs,
    TensorProfile,
)
from studentfloat.records.provenance import Provenance, TextSource
from studentfloat.records.rows import Baseline, Configuration, Row, TaskScore, join_rows
from studentfloat.records.study import StudyCell, StudyFailure, StudyResult
from studentfloat.records.tensors import (
    PackedModel,
    SkippedTensor,
    TensorError,
    TensorQuantization,
    Verification,
)

__all__ = [
    "METRICS",
    "AreaBreakdown",
    "Baseline",
    "Comparison",
    "Configuration",
    "Evaluation",
    "FormatHardware",
    "Frontier",
    "FrontierPoint",
    "Histogram",
    "LawFit",
    "LawFits",
    "LayerLaw",
    "Measurement",
    "Metric",
    "OnText",
    "PackedModel",
    "PairedDifference",
    "Profile",
    "ProfileSummary",
    "Provenance",
    "QuantilePairs",
    "Row",
    "SkippedTensor",
    "Standing",
    "StudyCell",
    "StudyFailure",
    "StudyResult",
    "TaskScore",
    "TensorError",
    "TensorProfile",
    "TensorQuantization",
    "TextSource",
    "Verification",
    "join_rows",
    "read_json",
    "record_from_json",
    "record_to_json",
    "write_json",
    "write_text_atomically",
]
