"""What keeps the supervisor from starting."""


class SuperviseError(Exception):
    """It cannot start; the text says why and what to do."""
