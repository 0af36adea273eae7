"""Pieces that several semi-supervised methods share; nothing here knows a method."""
