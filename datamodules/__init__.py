"""Images to batches: readers, manifest, splits, over-sampling, transforms, cache, faces and drawn data."""
