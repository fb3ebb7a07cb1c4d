"""A classifier and loaders in, a trained classifier and its history out."""
