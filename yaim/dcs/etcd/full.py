"""What people are told of an etcd that has no space left."""

NO_SPACE = "NOSPACE"
"""etcd's name for its alarm."""
REMEDY_FOR_FULL = (
    "etcd is full (`etcdctl alarm list`): delete what fills it or raise --quota-backend-bytes,"
    " then `etcdctl compact`, `etcdctl defrag`, `etcdctl alarm disarm` (docs/etcd.md, When etcd is"
    " full)"
)


def remedy_for(alarm: str) -> str:
    return REMEDY_FOR_FULL if alarm == NO_SPACE else "`etcdctl alarm list`, and etcd's log"
