"""The simulated streaming platform: world, catalog, audience, plays and oracle."""
