"""From EMG to muscle activation."""
