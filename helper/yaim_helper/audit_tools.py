"""yaim-helper audit: what the record tells. Needs no privileges, changes nothing."""


def main(arguments: list[str]) -> int:
    raise NotImplementedError(arguments)
