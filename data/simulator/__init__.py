"""The simulated streaming service: catalog, audience, rhythm, heat, oracle, choice, impressions."""
