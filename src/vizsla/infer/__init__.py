"""Run a classifier without gradients: predictions, features, heat maps, what explains mistakes."""
