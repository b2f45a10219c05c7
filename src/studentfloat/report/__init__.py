"""Tables, figures and pages, made from records alone."""

from studentfloat.report.figures import Figure, save_figures
from studentfloat.report.profile_page import profile_page
from studentfloat.report.profile_table import print_profiles, summary_rows
from studentfloat.report.study_page import comparison_page, study_figures, study_page
from studentfloat.report.table import comparison_rows, print_comparison

__all__ = [
    "Figure",
    "comparison_page",
    "comparison_rows",
    "print_comparison",
    "print_profiles",
    "profile_page",
    "save_figures",
    "study_figures",
    "study_page",
    "summary_rows",
]
