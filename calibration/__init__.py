"""Fit a person's parameters through the model's own dynamics, and show what the fit is worth on data it never saw."""
