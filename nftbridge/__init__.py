"""nftbridge: one typed model of a host's bridge networks, one atomic nftables transaction."""

__version__ = "0.1.0"
