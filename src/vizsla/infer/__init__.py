"""A classifier and batches in, predictions or features out."""
