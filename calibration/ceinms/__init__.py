"""Calibrations that CEINMS's own files describe."""
