"""Interactions become what a model eats, offline and online from the same functions."""
