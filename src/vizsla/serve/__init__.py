"""A web page and a JSON interface that classify images with a model file, for one machine or a trusted network."""
