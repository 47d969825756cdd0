"""The gate: is a candidate better than the champion on events that neither has seen? See docs/gate.md."""
