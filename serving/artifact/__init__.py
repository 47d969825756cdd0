"""What export and package add to a fitted model: its tables, its index, the code that travels with it."""
