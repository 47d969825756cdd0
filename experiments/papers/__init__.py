"""Reproduce a published comparison: neural CF on the data and by the protocol of its paper."""
