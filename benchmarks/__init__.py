"""Measurements of speed and memory, made side by side with a plain reference in one run."""
