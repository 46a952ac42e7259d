"""One look at all that stands below a cluster's prefix, as people want it: also at what is
nobody's, which nodes do not read."""

from yaim.core.model import ClusterView
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.connection import EtcdPermissionDenied
from yaim.dcs.etcd.keys import Keys

MOST_OF_A_GAP = 4
"""How many keys that are nobody's are told of each range in which yaim puts nothing."""


def look(client: EtcdClient, keys: Keys) -> ClusterView:
    """A linearizable read. Raises EtcdError."""
    view = keys.view(*client.read_ranges(*keys.ranges()))
    try:
        nobodys = client.first_keys(keys.gaps(), MOST_OF_A_GAP)
    except EtcdPermissionDenied:  # whoever may read what is yaim's has seen that
        return view
    return keys.with_nobodys(view, nobodys)
