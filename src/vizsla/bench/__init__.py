"""Measure a machine: what each part of training and predicting costs on it, and what would be faster."""
