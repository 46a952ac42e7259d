"""etcd as the cluster's memory: which keys, how to reach it, and what is done with it."""
