"""From batches of uint8 images to augmented float images, with one interpolation."""
