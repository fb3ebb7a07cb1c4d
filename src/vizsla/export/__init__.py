"""A trained classifier in, one safe model file out, and back."""
