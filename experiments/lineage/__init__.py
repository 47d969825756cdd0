"""From an answer back to its events and from events forward to answers: what trace, impact and replay read and show."""
