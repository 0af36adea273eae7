"""Formats of labelling tools, a file each."""
