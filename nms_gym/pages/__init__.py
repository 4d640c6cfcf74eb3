"""Pages made from the code itself: the reference of the muscle model, and one page per environment."""
