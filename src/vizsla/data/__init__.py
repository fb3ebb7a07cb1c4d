"""Pictures on disk in, batches of uint8 pictures out."""
