"""Features become a model."""
