"""The recommendation API in front of TorchServe: keys, limits, consent, cache, experiments, and always an answer."""
