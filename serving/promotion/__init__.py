"""What may move an alias of the registry: signed gate reports, signed moves, overrides."""
