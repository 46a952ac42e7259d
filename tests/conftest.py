"""All tests run in a network namespace of their own: nothing they do reaches the host's network,
and nothing of it is left when they end, however they end."""

import pytest

from tests.certificates import Certificates, make_certificates
from yaim.lab.namespaces import enter_private_network

enter_private_network()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))
