"""Readers of the supported file formats. Each returns tables under the project's column names."""
