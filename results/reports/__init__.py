"""Figures, tables and pages that all reports share."""
