"""Which law do numbers follow: one-pass sketches, maximum-likelihood fits, goodness of fit."""

from studentfloat.statistics.fits import LAWS, Fit, Fits, fit_laws, fit_student_t
from studentfloat.statistics.goodness import (
    anderson_darling,
    kolmogorov_smirnov,
    quantile_pairs,
    vuong_p_value,
)
from studentfloat.statistics.laws import (
    GeneralizedNormal,
    Laplace,
    Law,
    Logistic,
    Normal,
    StudentT,
)
from studentfloat.statistics.scaled import sketch_blocks, sketch_rows
from studentfloat.statistics.sketch import Cells, Sketch
from studentfloat.statistics.summary import histogram_of, quantiles_of, record_of, shape_of

__all__ = [
    "LAWS",
    "Cells",
    "Fit",
    "Fits",
    "GeneralizedNormal",
    "Laplace",
    "Law",
    "Logistic",
    "Normal",
    "Sketch",
    "StudentT",
    "anderson_darling",
    "fit_laws",
    "fit_student_t",
    "histogram_of",
    "kolmogorov_smirnov",
    "quantile_pairs",
    "quantiles_of",
    "record_of",
    "shape_of",
    "sketch_blocks",
    "sketch_rows",
    "vuong_p_value",
]
