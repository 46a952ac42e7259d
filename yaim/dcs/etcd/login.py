"""Getting in to etcd: with which credentials, and with which token.

The access (endpoints, password, certificates) may change at any time, by a reload or because a file
is replaced: new credentials are used once they have proved themselves, and those before stay in use
until then. A token is asked for when it is needed, and anew when etcd refuses it.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

import etcd3.etcdrpc as rpc

from yaim.dcs.etcd.access import (
    Credentials,
    EtcdAccess,
    EtcdError,
    EtcdUnreachable,
    read_secrets,
)
from yaim.dcs.etcd.believable import is_token
from yaim.dcs.etcd.certificates import check_secrets
from yaim.dcs.etcd.connection import (
    NO_TOKEN,
    EtcdAuthIsOff,
    EtcdLeaseNotFound,
    EtcdLoginFailed,
    EtcdPermissionDenied,
    EtcdTokenRefused,
)
from yaim.dcs.etcd.endpoints import STATUS, Answer, Call, Endpoints

logger = logging.getLogger(__name__)

LOGIN_REFRESH_S = 1.0
"""How long a request whose password is refused waits for a new one to be found."""
REFRESH_EVERY_S = 5.0
REFRESH_PAUSE_S = 0.3
"""The least time between two looks for other credentials."""
LOGIN_PATIENCE_S = 1.0
"""How long an endpoint may take to answer a login before another one is asked, too: a password
costs etcd some 0.1 s of a processor. (Other requests: endpoints.PATIENCE_S.)"""


class Login:
    """Thread-safe."""

    def __init__(
        self, access: EtcdAccess, endpoints: Endpoints, is_closed: threading.Event
    ) -> None:
        self._access = access
        """The access that was asked for last."""
        self._endpoints = endpoints
        self._is_closed = is_closed
        self._lock = threading.Lock()
        """Whoever changes the credentials has it."""
        self._complaint: tuple[Credentials, type[EtcdError]] | tuple[EtcdAccess, str] | None = None
        """What was last told not to be used, and the kind of reason: in which order endpoints fail,
        and in which words, differs each time."""
        self._wants_refresh = threading.Event()
        self._proof = STATUS
        self._token_lock = threading.Lock()
        self._token: str | None = None
        """The token in use; None: another one is to be asked for."""
        self._last_token = NO_TOKEN

    # --- requests --------------------------------------------------------------------------

    def call(self, call: Call) -> Answer:
        """Makes a call with a token. Raises EtcdError."""
        credentials = self.credentials()
        try:
            return self._call_with_token(call)
        except EtcdLeaseNotFound:
            raise
        except EtcdLoginFailed:
            # A new password may be in its file already; nothing has been done yet.
            if not self._finds_other_credentials_than(credentials):
                raise
            return self._call_with_token(call)
        except EtcdError:
            # Perhaps because a certificate has been replaced.
            self._wants_refresh.set()
            raise

    def call_without_login(self, call: Call) -> Answer:
        """Makes a call for which etcd looks at no token: a keepalive. It goes with the last token
        that there was, also one that is to be replaced, and waits for no login, which takes etcd a
        tenth of a second or more, and may be under way. Only if etcd refuses that token, or there
        was none yet, it is as `call`. Raises EtcdError."""
        token = self.last_token
        if token == NO_TOKEN or self.credentials().access.user is None:
            return self.call(call)
        try:
            return self._endpoints.call(replace(call, token=token))
        except EtcdLeaseNotFound:
            raise
        except (EtcdTokenRefused, EtcdPermissionDenied):
            self.forget(token)
            return self.call(call)
        except EtcdError:
            # Perhaps because a certificate has been replaced.
            self._wants_refresh.set()
            raise

    def _call_with_token(self, call: Call) -> Answer:
        token = self.token()
        try:
            return self._endpoints.call(replace(call, token=token))
        except (EtcdTokenRefused, EtcdPermissionDenied) as error:
            # Whoever shows no token is to etcd the user whom the client certificate names.
            if isinstance(error, EtcdPermissionDenied) and token != NO_TOKEN:
                raise
            self.forget(token)
            return self._endpoints.call(replace(call, token=self.token()))
        except EtcdUnreachable:
            # An etcd that was wiped or restored waits in vain for what an old token refers to.
            self.forget(token)
            raise

    # --- tokens ----------------------------------------------------------------------------

    def token(self) -> str:
        """The token in use, or a new one; NO_TOKEN if no user is configured. Raises EtcdError.

        It is sent as plain metadata: gRPC's call credentials refuse to work without TLS.
        """
        credentials = self.credentials()
        if credentials.access.user is None:
            return NO_TOKEN
        with self._token_lock:
            if self._token is None:
                self._token = self._last_token = self._log_in(credentials, self._endpoints.call)
            return self._token

    @property
    def last_token(self) -> str:
        """The last token that there was; NO_TOKEN if there was none. It may be out of date."""
        return self._last_token

    def forget(self, token: str) -> None:
        """Asks for another token when one is needed next."""
        with self._token_lock:
            if self._token == token:
                self._token = None

    def _log_in(self, credentials: Credentials, ask: Callable[[Call], Answer]) -> str:
        """A new token; NO_TOKEN where none is needed."""
        user, password = credentials.access.user, credentials.secrets.password
        if user is None:
            return NO_TOKEN
        request = rpc.AuthenticateRequest(name=user, password=password or "")
        try:
            answer = ask(
                Call(
                    lambda c: c.authenticate,
                    request,
                    is_repeatable=True,
                    patience_s=LOGIN_PATIENCE_S,
                )
            )
        except EtcdAuthIsOff:
            if self._token is None:
                logger.warning("etcd-user is not needed: authentication is not enabled in etcd")
            return NO_TOKEN
        token: str = answer.message.token
        if not is_token(token):
            raise EtcdError(
                f"{answer.connection.endpoint}: answers a login with a token that is none"
            )
        return token

    # --- credentials -----------------------------------------------------------------------

    def credentials(self) -> Credentials:
        """The credentials in use. Raises EtcdError if a file cannot be read."""
        in_use = self._endpoints.credentials
        if in_use is None:
            with self._lock:
                in_use = self._endpoints.credentials
                if in_use is None:
                    access = self._access
                    in_use = Credentials(access, read_secrets(access))
                    check_secrets(in_use.access, in_use.secrets)
                    self._endpoints.use(in_use)
        return in_use

    def prove_by(self, proof: Call) -> None:
        """From now on credentials prove themselves by this call."""
        self._proof = proof

    def use(self, access: EtcdAccess) -> None:
        """Uses this access as soon as `refresh` finds that it works."""
        self._access = access
        self._wants_refresh.set()

    def keep_refreshed(self) -> None:
        """Calls `refresh` every few seconds, and when something has failed or another access is
        asked for. In a thread of its own: it takes as long as new endpoints let it wait."""

        def work() -> None:
            while not self._is_closed.wait(REFRESH_PAUSE_S):
                self._wants_refresh.wait(REFRESH_EVERY_S)
                self._wants_refresh.clear()
                self.refresh()

        threading.Thread(target=work, name="etcd-access", daemon=True).start()

    def refresh(self) -> bool:
        """Looks for other credentials, because the files have changed or another access was asked
        for, and uses them if they work. Returns whether that has happened."""
        with self._lock:
            access, in_use = self._access, self._endpoints.credentials
            if in_use is None:
                return False
            credentials: Credentials | None = None
            try:
                credentials = Credentials(access, read_secrets(access))
                if credentials != in_use:
                    check_secrets(access, credentials.secrets)
                    self._prove(credentials)
            except EtcdError as error:
                complaint = (
                    (access, str(error)) if credentials is None else (credentials, type(error))
                )
                if complaint != self._complaint:
                    self._complaint = complaint
                    logger.error("the new access to etcd is not used, it does not work: %s", error)
                return False
            self._complaint = None
        if credentials == in_use:
            return False
        logger.info(
            "a new access to etcd is used: endpoints, password or certificates have changed"
        )
        return True

    def _prove(self, credentials: Credentials) -> None:
        """Gets in with these credentials, and uses them from now on. Raises EtcdError if they do
        not work."""

        def ask(call: Call) -> Answer:
            answer = self._endpoints.call_over(credentials, call)
            answer.connection.leave("not needed")
            return answer

        token = self._log_in(credentials, ask)
        answer = self._endpoints.call_over(credentials, replace(self._proof, token=token))
        with self._token_lock:
            self._endpoints.use(credentials, answer.connection)
            self._token = self._last_token = token

    def _finds_other_credentials_than(self, refused: Credentials) -> bool:
        """Waits a moment for other credentials, which are looked for. Returns whether they are in
        use."""
        self._wants_refresh.set()
        give_up_at = monotonic() + LOGIN_REFRESH_S
        while self._endpoints.credentials is refused and monotonic() < give_up_at:
            self._is_closed.wait(0.02)
        return self._endpoints.credentials is not refused
