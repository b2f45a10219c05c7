"""Tables, figures and pages, made from records alone."""

from studentfloat.report.page import comparison_page
from studentfloat.report.table import comparison_rows, print_comparison

__all__ = ["comparison_page", "comparison_rows", "print_comparison"]
