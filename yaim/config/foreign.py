"""Keys of other programs for the same work, and what yaim has in their place: vip-manager's (its
README, "Configuration"), keepalived's (keepalived.conf(5)). Names with dashes."""

from collections.abc import Mapping

_POOL = "the addresses in the pool, once for all nodes: yaim pool add ADDRESS"
_NO_VRRP = "nothing in its place: the nodes agree by way of etcd, and no packets of VRRP are sent"
_ROLE = "a check of the role instead: checker-type patroni with patroni-role primary"
_ORDER = "`prefer` with an entry of the pool (yaim pool set ADDRESS --prefer NODE), or yaim weight"
_CHECK = "a check: checker-type shell with shell-command, or postgres, http, tcp (docs/checks.md)"

INSTEAD: Mapping[str, str] = {
    # vip-manager
    "ip": _POOL,
    "mask": "netmask",
    "iface": "interface",
    "trigger-key": _ROLE,
    "trigger-value": _ROLE,
    "key": _ROLE,
    "hostname": "nodename",
    "host": "nodename",
    "type": "dcs-type",
    "endpoint": "dcs-endpoints",
    "endpoints": "dcs-endpoints",
    "hosting-type": "manager-type",
    "consul-token": "nothing in its place: there is only etcd (dcs-type)",
    "verbose": "log-level Debug",
    # keepalived
    "virtual-ipaddress": _POOL,
    "virtual-ipaddress-excluded": _POOL,
    "virtual-router-id": "dcs-clustername, which tells clusters apart",
    "vrrp-instance": "dcs-clustername, which tells clusters apart",
    "advert-int": "ttl: milliseconds after which others take over from a node that has died",
    "priority": _ORDER,
    "state": f"nothing in its place: all nodes hold their share; or {_ORDER}",
    "nopreempt": "rebalance: never",
    "preempt-delay": "rebalance-delay, in milliseconds",
    "vrrp-script": _CHECK,
    "track-script": _CHECK,
    "script": _CHECK,
    "track-interface": "nothing: an interface that goes down is noticed at once",
    "authentication": "etcd-user and etcd-password, or TLS (docs/etcd.md)",
    "auth-type": "etcd-user and etcd-password, or TLS (docs/etcd.md)",
    "auth-pass": "etcd-password",
    "unicast-peer": _NO_VRRP,
    "unicast-src-ip": _NO_VRRP,
    "mcast-src-ip": _NO_VRRP,
    "garp-master-delay": "nothing: each address is announced at once, and again",
    "garp-master-refresh": "nothing: each address is announced at once, and again",
    "router-id": "nodename",
}
"""Key to what is expected in its place."""
