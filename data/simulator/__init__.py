"""The simulated streaming service: catalogue, audience, rhythm, heat, oracle, choice, impressions."""
