"""How sure a calibration is: posterior, what the data say, and how that is worked out."""
