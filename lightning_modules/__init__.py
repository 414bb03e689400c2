"""One run: options, networks, losses, metrics, training, checkpoints, prediction and export."""
