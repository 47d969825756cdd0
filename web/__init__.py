"""What the HTTP services of the platform share: keys, limits, connections, errors, and how a service starts and ends."""
