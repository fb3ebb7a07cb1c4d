"""Keep prepared images between epochs and runs: in memory, on disk, on a device."""
