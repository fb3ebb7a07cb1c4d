"""Numbers with intervals and plots, from predictions alone: nothing here runs a model."""
