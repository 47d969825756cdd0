"""What can be wrong with data, as told to the person who brought it."""

from config.command import UserError


class DataError(UserError):
    """Data or its settings cannot be used; one line that names the file, column or key and the value."""
