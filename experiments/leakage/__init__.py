"""The leakage audit: did a model see anything from its future? See docs/gate.md."""
