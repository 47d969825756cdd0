"""How often the gate errs and how many users it needs: simulated looks, what they came to, and its page."""
