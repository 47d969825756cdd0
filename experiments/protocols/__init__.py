"""Ways to hold events out of the same data, and the card that says how the ranking of models moves with them."""
