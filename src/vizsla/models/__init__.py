"""A name in, a network with a head for our classes out."""
