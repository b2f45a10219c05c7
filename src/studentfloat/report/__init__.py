"""Tables, figures and pages, made from records alone."""

from studentfloat.report.page import comparison_page
from studentfloat.report.profile_page import profile_page
from studentfloat.report.profile_table import print_profiles, summary_rows
from studentfloat.report.table import comparison_rows, print_comparison

__all__ = [
    "comparison_page",
    "comparison_rows",
    "print_comparison",
    "print_profiles",
    "profile_page",
    "summary_rows",
]
