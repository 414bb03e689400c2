"""MLflow tracking: the store, the logger, the offline queue, export and import of runs."""
