"""A whole cluster on this machine, for seeing and testing what yaim does.

Real parts throughout: etcd, network namespaces on a bridge, helper, coordinator, supervisor.
Everything lives and dies with the process that made it: namespaces have no names and are held by
file descriptors, processes are ended by the kernel when their parent is.
"""
