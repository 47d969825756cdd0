"""The code that travels to the TorchServe worker. Evaluations answer requests with the same code."""
