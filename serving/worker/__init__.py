"""What travels to the TorchServe worker: an artifact answers requests there, and in an evaluation the same way."""
