"""The checks of the leakage audit, a file per family."""
