"""Bodies, joints and coordinates."""
