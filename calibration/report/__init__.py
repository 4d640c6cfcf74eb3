"""The report of a calibration: numbers, figures, words."""
