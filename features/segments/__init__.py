"""Segments: which rules of params.yaml a user fulfills at a moment."""
