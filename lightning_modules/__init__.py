"""One run: backbone, loss, metrics, the training command line."""
