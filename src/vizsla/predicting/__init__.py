"""A model file and any number of paths in, a row for each picture out: on the screen, or in a file that can be resumed."""
