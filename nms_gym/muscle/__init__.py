"""Muscle paths, curves, tendon and force."""
