"""TorchServe itself: how it is started, and what it is asked."""
