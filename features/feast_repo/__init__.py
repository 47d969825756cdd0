"""Feast's feature repository: what its registry and its UI know of the online store."""
