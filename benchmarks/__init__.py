"""What is measured, and against what; each module prints a table, ``python -m benchmarks`` runs those for the CPU."""
