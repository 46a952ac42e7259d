"""Why an endpoint cannot be used: gRPC's own words are poor, and differ from version to version.

Looks at the endpoint (probe.py) and says what its answers mean. Makes one connection; one or two
more only where the answer to the first was strange. Asks etcd nothing, so it knows nothing of users
and permissions; etcd says in plain words itself what is wrong with these.
"""

import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from urllib.parse import urlsplit

from yaim.dcs.etcd.access import EtcdAccess, EtcdError, EtcdUnreachable, read_secrets
from yaim.dcs.etcd.certificates import (
    Certificate,
    certificates_in,
    client_context,
    expiries,
    read_certificates,
)
from yaim.dcs.etcd.probe import (
    EndpointFault,
    NotTls,
    Target,
    answer_in_plaintext,
    answer_in_tls,
    certificate_of,
    is_for_peers,
    is_settings,
    is_tls,
    speaks_tls,
)
from yaim.dcs.expiry import Expiry

# SSLCertVerificationError.verify_code: X509_V_ERR_* of OpenSSL's x509_vfy.h
_V_ERR_NOT_YET_VALID = 9
_V_ERR_EXPIRED = 10
_V_ERR_NOT_SIGNED_BY_OURS = (2, 7, 18, 19, 20, 21)
_V_ERR_PURPOSE = 26
_V_ERR_OTHER_HOST = (62, 64)


def explain(endpoint: str, access: EtcdAccess, timeout_s: float) -> str | None:
    """Why gRPC with etcd is impossible at this endpoint, to be put behind its URL and a colon; None
    if nothing is found to be wrong. Takes `timeout_s` at most for the endpoint (a server that is
    slower than that is what is wrong), and certificates.READ_WITHIN_S to read a certificate."""
    target = Target(endpoint, timeout_s)
    try:
        if target.is_tls:
            _examine_tls(target, access)
        else:
            _examine_plaintext(target)
    except (EndpointFault, EtcdError) as found:
        return str(found)
    return None


def explain_all(error: EtcdError, access: EtcdAccess, timeout_s: float) -> str:
    """Explains why a request has failed at each endpoint, in at most `timeout_s` for each; where
    nothing is found, what the endpoint said."""
    if not isinstance(error, EtcdUnreachable):
        return str(error)
    return "; ".join(
        f"{endpoint}: {explain(endpoint, access, timeout_s) or complaint}"
        for endpoint, complaint in error.complaints.items()
    )


def server_expiries(access: EtcdAccess, timeout_s: float) -> tuple[Expiry, ...]:
    """The ends of the certificates that the endpoints show, be they valid or not; nothing of an
    endpoint that shows none within the time, or one that cannot be read."""

    def shown(endpoint: str) -> bytes | None:
        try:
            context = client_context(access, read_secrets(access))
        except EtcdError:
            return None
        return certificate_of(Target(endpoint, timeout_s), context)

    endpoints = [each for each in access.endpoints if urlsplit(each).scheme == "https"]
    with ThreadPoolExecutor(max(len(endpoints), 1)) as at_once:
        found = [
            (endpoint, der)
            for endpoint, der in zip(endpoints, at_once.map(shown, endpoints), strict=True)
            if der is not None
        ]
    read = read_certificates([der for _, der in found])
    return tuple(
        Expiry(endpoint, certificate.subject, certificate.not_after)
        for (endpoint, _), certificate in zip(found, read, strict=True)
        if certificate is not None
    )


def all_expiries(access: EtcdAccess, timeout_s: float) -> tuple[Expiry, ...]:
    """The ends of the certificates in our files and of those that the endpoints show, as far as
    they can be had; none where TLS is not used."""
    if not any(urlsplit(each).scheme == "https" for each in access.endpoints):
        return ()
    try:
        ours = expiries(access, read_secrets(access))
    except EtcdError:
        ours = ()
    return ours + server_expiries(access, timeout_s)


# --- what the answers mean -----------------------------------------------------------------


def _examine_plaintext(target: Target) -> None:
    """Looks at an endpoint that is to speak no TLS. Raises EndpointFault."""
    answer = answer_in_plaintext(target)
    if is_settings(answer):
        return
    if is_tls(answer) or (not answer and speaks_tls(target)):
        raise EndpointFault(f"speaks TLS: use https://{target.netloc} in dcs-endpoints")
    raise EndpointFault(_not_etcd(answer))


def _examine_tls(target: Target, access: EtcdAccess) -> None:
    """Looks at an endpoint that is to speak TLS. Raises EndpointFault, and EtcdError for our own
    files."""
    secrets = read_secrets(access)
    context = client_context(access, secrets)
    try:
        answer, protocol = answer_in_tls(target, context)
    except NotTls as error:
        plaintext = answer_in_plaintext(target)
        if is_settings(plaintext):
            raise EndpointFault(
                f"speaks no TLS: use http://{target.netloc} in dcs-endpoints, or let etcd use TLS"
                " (--cert-file, --key-file, https in --listen-client-urls)"
            ) from None
        raise EndpointFault(_not_etcd(plaintext or error.answer)) from None
    except ssl.SSLCertVerificationError as error:
        certificate = _shown_by(target, context)
        raise EndpointFault(_why_not_trusted(error, certificate, target.host, access)) from None
    except ssl.SSLError as error:
        own = next(iter(certificates_in(secrets.cert)), None)
        raise EndpointFault(_why_refused(error, own, access)) from None
    if not is_settings(answer):
        if not answer and is_for_peers(target, context):
            raise EndpointFault(
                "is etcd's port for its peers: name the one for clients in dcs-endpoints (it is in"
                " etcd's --advertise-client-urls, usually 2379)"
            )
        raise EndpointFault(_not_etcd(answer))
    if protocol != "h2":
        raise EndpointFault(
            "speaks TLS, but does not offer HTTP/2 in it (ALPN h2): this is not etcd's client port"
        )


def _shown_by(target: Target, context: ssl.SSLContext) -> Certificate | None:
    """The certificate that the server shows; None if it shows none, or one that cannot be read.
    Changes the context."""
    der = certificate_of(target, context)
    return read_certificates([der])[0] if der is not None else None


def _not_etcd(answer: bytes) -> str:
    ending = "this is not etcd's client port (usually 2379)"
    if not answer:
        return f"closes the connection without an answer: {ending}, or etcd is just ending"
    if answer.startswith(b"HTTP/1"):
        return f"speaks HTTP/1 only, like a web server or etcd's port for metrics: {ending}"
    shown = "".join(chr(each) if 32 <= each < 127 else "?" for each in answer[:20])
    return f"does not speak HTTP/2, its answer begins with {shown!r}: {ending}"


def _why_not_trusted(
    error: ssl.SSLCertVerificationError,
    certificate: Certificate | None,
    host: str,
    access: EtcdAccess,
) -> str:
    why_not_valid = certificate and certificate.why_not_valid(datetime.now(UTC))
    hosts = ", ".join(certificate.hosts) if certificate else "others"
    code = error.verify_code
    if code in (_V_ERR_EXPIRED, _V_ERR_NOT_YET_VALID):
        if why_not_valid is not None:
            return f"etcd's certificate {why_not_valid}: give etcd a new one, or set the clock"
        return (
            "a CA certificate above etcd's certificate is not valid now: renew it (etcd-ca-file"
            f" {access.ca_file or 'is not set'})"
        )
    if code in _V_ERR_OTHER_HOST:
        return (
            f"etcd's certificate is for {hosts or 'no host at all'}, not for {host}: use a name of"
            " the certificate in dcs-endpoints, or give etcd a certificate with this one"
        )
    if code in _V_ERR_NOT_SIGNED_BY_OURS:
        by = f" but by {certificate.issuer!r}" if certificate else ""
        if access.ca_file is None:
            return (
                f"etcd's certificate is not signed by a CA that this host trusts{by}: set"
                " etcd-ca-file to a file with that CA's certificate"
            )
        return (
            f"etcd's certificate is not signed by a CA in etcd-ca-file {access.ca_file}{by}: put"
            " that CA's certificate there or, if it is an intermediate CA, into etcd's --cert-file"
        )
    if code == _V_ERR_PURPOSE:
        return (
            "etcd's certificate is not for servers: give etcd one whose extended key usage has"
            " serverAuth"
        )
    return f"etcd's certificate cannot be trusted: {error.verify_message}"


def _why_refused(error: ssl.SSLError, own: Certificate | None, access: EtcdAccess) -> str:
    """Why etcd breaks off the handshake. A TLS alert about certificates means ours: about its own
    etcd does not complain."""
    reason = str(error.reason or "unknown reason").replace("_", " ").lower()
    _, is_alert, alert = reason.rpartition("alert ")
    if not is_alert:
        return f"the TLS handshake fails: {reason}"
    if "certificate" not in alert and alert != "unknown ca":
        return (
            f"etcd breaks off the TLS handshake (alert {alert}): its log says why; do the TLS"
            " versions and its --cipher-suites fit?"
        )
    if access.cert_file is None:
        return (
            f"etcd wants a client certificate (alert {alert}): set etcd-cert-file and etcd-key-file"
        )
    why_not_valid = own and own.why_not_valid(datetime.now(UTC))
    if why_not_valid is not None:
        return (
            f"etcd refuses the client certificate (alert {alert}): that in etcd-cert-file"
            f" {access.cert_file} {why_not_valid}"
        )
    return (
        f"etcd refuses the client certificate in etcd-cert-file {access.cert_file} (alert {alert}):"
        " is it signed by the CA of etcd's --trusted-ca-file, and does its extended key usage have"
        " clientAuth?"
    )
