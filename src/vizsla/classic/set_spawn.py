"""``import vizsla.classic.set_spawn`` does nothing: pictures are read by threads, and no way to start processes is chosen."""
