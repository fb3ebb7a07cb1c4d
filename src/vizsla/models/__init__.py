"""From the name of an architecture to a network with a head for our classes."""
