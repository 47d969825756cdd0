"""How a version comes to serve, stays and goes: stages, trials, the way back, what to tell of it."""
