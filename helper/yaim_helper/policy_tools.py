"""yaim-helper policy: what an allowlist allows. Needs no privileges, changes nothing."""


def main(arguments: list[str]) -> int:
    raise NotImplementedError(arguments)
