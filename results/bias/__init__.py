"""Bias between groups of images: scores, gaps with tests, and the groups of the training data."""
