"""The command line: words typed in a terminal become calls of the public functions."""
