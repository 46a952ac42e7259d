"""Whom a check asks, as far as its configuration tells: nothing is looked up."""

from urllib.parse import urlsplit

from yaim.checks.http import HttpCheck
from yaim.checks.patroni import PatroniCheck
from yaim.checks.tcp import TcpCheck
from yaim.checks.transport.libpq_keys import LibpqKeys, is_socket
from yaim.config_keys import KeyGroup


def hosts_of(settings: KeyGroup) -> tuple[str, ...]:
    """The host names and addresses that are asked. A socket is none, and a command asks nobody."""
    match settings:
        case HttpCheck(url=url) | PatroniCheck(url=url):
            return tuple(filter(None, (urlsplit(url).hostname,)))
        case TcpCheck(address=address):
            return (address.host,)
        case LibpqKeys():
            return tuple(each for each in settings.servers() if not is_socket(each))
    return ()
