"""Predictions in, numbers and plots out; nothing here runs a model."""
