"""``python -m vizsla`` in, the command line out."""

from vizsla.cli import main

main()
