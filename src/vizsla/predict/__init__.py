"""Answer with a model file: one image, or a stream of paths that survives a kill."""
