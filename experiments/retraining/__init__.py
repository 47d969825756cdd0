"""Newer events, the same configuration: retraining beside a champion, and refitting it on all events."""
