"""Which segments a user belongs to at a moment, by rules that a person wrote."""
