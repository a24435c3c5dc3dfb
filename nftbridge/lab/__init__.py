"""A laboratory: network namespaces as host, outside clients and containers, and real probes.

    probe       what is asked and what came of it
    topology    Host -> namespaces, bridges, veth pairs, addresses; pure
    laboratory  the context manager that its users see
    keeper      the process that owns the namespaces and removes them, however its user ends
    worker      one process per namespace: sets up its links, answers, asks

Nothing outside the namespaces made here is changed. Needs root, bridge, veth and pyroute2.
"""

from __future__ import annotations

from nftbridge.lab.laboratory import Connection, Laboratory
from nftbridge.lab.namespaces import sweep
from nftbridge.lab.probe import Answer, Outcome, Probe, ProbeProtocol, Reply
from nftbridge.lab.topology import HOST, OUTSIDE, Bridge, Link, Node, Topology

__all__ = [
    "HOST",
    "OUTSIDE",
    "Answer",
    "Bridge",
    "Connection",
    "Laboratory",
    "Link",
    "Node",
    "Outcome",
    "Probe",
    "ProbeProtocol",
    "Reply",
    "Topology",
    "sweep",
]
