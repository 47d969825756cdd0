"""Newer events, the same recipe: where time is cut anew, and what a refit must show without a holdout."""
