"""A run folder: train into it, read it from anywhere, report on it."""
