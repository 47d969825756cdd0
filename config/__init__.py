"""Typed sections of params.yaml, search spaces and the command-line helper. Imports nothing of the project."""
