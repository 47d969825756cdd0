"""The recommendation API in front of TorchServe: keys, limits, consent, cache, experiments, and an answer whatever fails."""
