"""``python -m vizsla`` in, the command line out."""

from vizsla.cli.app import main

main()
