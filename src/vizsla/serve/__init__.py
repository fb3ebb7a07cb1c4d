"""A model file in, a web page and a JSON interface that predict images out; for one machine or a trusted network."""
