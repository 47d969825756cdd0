"""Collect events: the event schema, the verdict on each event, and the log that keeps what was accepted."""
