"""Which model is better, and is it good enough."""
