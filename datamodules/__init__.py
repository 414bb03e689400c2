"""The images: manifests, folds, over-sampling, pixels. Imports nothing of ours."""
