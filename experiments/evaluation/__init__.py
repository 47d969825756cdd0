"""Measure models from their rankings: cases, metrics, slices, intervals, and comparisons of two models."""
