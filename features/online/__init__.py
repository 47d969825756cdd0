"""The online store: user profiles and item trends as of now, for live requests. Loads in the serving worker."""
