"""``python -m vizsla`` runs the command line."""

from vizsla.cli.app import main

main()
