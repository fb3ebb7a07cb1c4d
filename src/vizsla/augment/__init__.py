"""Batches of uint8 pictures in, augmented float pictures out, with one interpolation."""
