"""TorchServe: start it, stop it, and talk to it."""
