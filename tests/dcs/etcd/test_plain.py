"""What gRPC says of a failed call, in few words."""

import grpc
import pytest

from yaim.dcs.etcd.connection import plain


class Failed:
    def __init__(self, details: str) -> None:
        self._details = details

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    "said",
    [
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:2379: Tls"
        " handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:"
        "OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK",
        "Ssl handshake failed: SSL_ERROR_SSL: error:0A000086:SSL routines::certificate verify"
        " failed",
    ],
)
def test_a_bad_certificate_is_told_in_words(said: str) -> None:
    """The log had gRPC's text, and in the next line why that is and what to do."""
    assert plain(Failed(said)) == "the TLS handshake fails: certificate verify failed"
