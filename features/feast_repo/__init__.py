"""Feast's feature repository: what Feast's registry and UI know of the online store."""
