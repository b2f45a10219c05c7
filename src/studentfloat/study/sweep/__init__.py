"""Studies: many models, formats, schemes, methods and evaluations, cell by cell."""
