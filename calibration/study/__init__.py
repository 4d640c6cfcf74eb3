"""A study from its files to a saved person."""
