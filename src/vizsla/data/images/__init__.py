"""Read one image: decode, orient, presize, transform."""
