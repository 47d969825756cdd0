"""An exported model becomes an answer."""
