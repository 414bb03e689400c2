"""For whom a run is worse, by how much, whether that is chance, and who was in its training data."""
