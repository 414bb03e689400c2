"""Explanations of single images: which regions a classifier uses, and how faithful the explanation is."""
