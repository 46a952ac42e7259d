"""yaim: keeps a pool of virtual IP addresses on a set of Linux nodes."""

__version__ = "0.1.0"
