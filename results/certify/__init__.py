"""Certificates: recompute what a run claims from the tables that it wrote."""
