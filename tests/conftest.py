"""All tests run in a network namespace of their own: nothing they do reaches the host's network,
and nothing of it is left when they end, however they end."""

from yaim.lab.namespaces import enter_private_network

enter_private_network()
