"""Looks at every endpoint, beside everything else: one that is wrong or dead would not show before
it is needed. Looks at the certificates, too: they end one day. Changes nothing."""

import logging
import threading
from datetime import UTC, datetime
from time import monotonic

from yaim.dcs.etcd.access import EtcdError
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.diagnose import all_expiries, explain
from yaim.dcs.expiry import warnings_of

logger = logging.getLogger(__name__)

EVERY_S = 86400.0
AT_MOST_EVERY_S = 30.0
EXPLAIN_WITHIN_S = 2.0


class Survey:
    """Its construction starts it. It writes to the log what is wrong, each thing once."""

    def __init__(self, client: EtcdClient, at_most_every_s: float = AT_MOST_EVERY_S) -> None:
        self._client = client
        self._at_most_every_s = at_most_every_s
        self._wanted = threading.Event()
        self._complaints: dict[str, str] = {}
        """What was wrong with each endpoint last time."""
        threading.Thread(target=self._work, name="etcd-survey", daemon=True).start()

    def soon(self) -> None:
        """Something has failed: it looks soon."""
        self._wanted.set()

    def _work(self) -> None:
        warned_at = -EVERY_S
        while not self._client.is_closed.is_set():
            self._wanted.clear()
            try:
                self._look()
                if monotonic() >= warned_at + EVERY_S:
                    warned_at = monotonic()
                    self._warn()
            except EtcdError as error:  # a file; whoever makes requests fails likewise, and tells
                logger.debug("no look at etcd's endpoints: %s", error)
            self._client.is_closed.wait(self._at_most_every_s)
            if not self._complaints:
                self._wanted.wait(EVERY_S)

    def _look(self) -> None:
        access = self._client.access
        before, self._complaints = self._complaints, {}
        for endpoint, complaint in self._client.survey().items():
            self._complaints[endpoint] = explain(endpoint, access, EXPLAIN_WITHIN_S) or complaint
            if self._complaints[endpoint] != before.get(endpoint):
                logger.warning("etcd endpoint %s: %s", endpoint, self._complaints[endpoint])
        for endpoint in sorted(before.keys() - self._complaints.keys()):
            logger.info("etcd endpoint %s answers again", endpoint)

    def _warn(self) -> None:
        expiries = all_expiries(self._client.access, EXPLAIN_WITHIN_S)
        for warning in warnings_of(expiries, datetime.now(UTC)):
            logger.warning("%s", warning)
