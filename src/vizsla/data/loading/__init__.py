"""Read images in threads and put them into batches, in an order that (seed, epoch, row) decides."""
