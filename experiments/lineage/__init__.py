"""Lineage: from a served answer back to its data, from data forward to answers, and an answer computed again."""
