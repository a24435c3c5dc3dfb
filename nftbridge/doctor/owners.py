"""Whose table is whose, by its name or by what is in it."""

from __future__ import annotations

from nftbridge.doctor.docker import NFT_TABLE, is_dockers
from nftbridge.doctor.ruleset import Maker, Table

_BY_NAME = {
    NFT_TABLE: "Docker",
    "firewalld": "firewalld",
    "netavark": "Podman",
    "cni_hostport": "CNI portmap",
    "cni_plugins_masquerade": "CNI",
    "libvirt": "libvirt",
    "libvirt_network": "libvirt",
    "incus": "Incus",
    "lxd": "LXD",
    "kube-proxy": "kube-proxy",
    "kube-router": "kube-router",
    "cilium": "Cilium",
    "calico": "Calico",
    "crowdsec": "CrowdSec",
    "crowdsec6": "CrowdSec",
    "f2b-table": "fail2ban",
    "nerdctl": "nerdctl",
}
_BY_CHAIN = (
    ("NETAVARK", "Podman"),
    ("CNI-", "CNI"),
    ("LIBVIRT_", "libvirt"),
    ("KUBE-", "kube-proxy"),
    ("ufw-", "ufw"),
    ("ufw6-", "ufw"),
    ("cali-", "Calico"),
    ("CILIUM_", "Cilium"),
    ("f2b-", "fail2ban"),
    ("FWD", "firewalld"),
    ("IN_public", "firewalld"),
)
"""Prefixes of chains in the tables that all users of iptables share."""


def owner(table: Table) -> str:
    """Who made the table or works in it; "" if that cannot be told."""
    if table.maker is Maker.NFT:
        return _BY_NAME.get(table.name, "")
    for prefix, name in _BY_CHAIN:
        if any(chain.startswith(prefix) for chain in table.chains):
            return name
    return "Docker" if any(map(is_dockers, table.chains)) else ""
