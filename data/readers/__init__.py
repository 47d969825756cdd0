"""Readers of the formats that data comes in; each gives text columns under our names."""
