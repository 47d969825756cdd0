"""Feast as the online store, for writers, batch jobs and the edge. Never loads in the serving worker."""
