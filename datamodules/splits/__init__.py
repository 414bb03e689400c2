"""Splits: k-fold, hold-out and given parts, and the protocol that a run follows."""
