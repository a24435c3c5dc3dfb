"""Docker 29's tables of nftables, one for each family, as far as packets notice.

No Debian has that Docker. The shape is that of its own documents: base chains that jump by maps to
two chains for each bridge, translations beside them, and a drop in raw for each container.
"""

from __future__ import annotations

from collections.abc import Iterator

from nftbridge.model import Container, Family, Host, Network

_NAMES = {Family.IPV4: "ip", Family.IPV6: "ip6"}

_BASES = """
 chain filter-FORWARD {
  type filter hook forward priority filter; policy accept;
  oifname vmap @filter-forward-in-jumps
  iifname vmap @filter-forward-out-jumps
 }
 chain nat-OUTPUT {
  type nat hook output priority -100; policy accept;
  %s fib daddr type local counter jump nat-prerouting-and-output
 }
 chain nat-POSTROUTING {
  type nat hook postrouting priority srcnat; policy accept;
  iifname vmap @nat-postrouting-out-jumps
 }
 chain nat-PREROUTING {
  type nat hook prerouting priority dstnat; policy accept;
  fib daddr type local counter jump nat-prerouting-and-output
 }
"""
_ON_LOOPBACK = {Family.IPV4: "ip daddr != 127.0.0.0/8", Family.IPV6: "ip6 daddr != ::1"}


def tables(host: Host) -> str:
    """For nft: both tables for the NAT and internal networks of `host`."""
    return "".join(line for family in Family for line in _table(host, family))


def _table(host: Host, family: Family) -> Iterator[str]:
    networks = [network for network in host.networks if network.subnet(family)]
    outgoing = [network for network in networks if not network.internal]
    yield f"table {_NAMES[family]} docker-bridges {{\n"
    yield _jumps("filter-forward-in", networks)
    yield _jumps("filter-forward-out", networks)
    yield _jumps("nat-postrouting-out", outgoing)
    yield _BASES % _ON_LOOPBACK[family]
    yield from _chain("raw-PREROUTING", (d for n in outgoing for d in _guards(n, family)), _RAW)
    translations = (t for n in outgoing for t in _translations(n, family))
    yield from _chain("nat-prerouting-and-output", translations)
    for network in networks:
        yield from _chains_of(network, family)
    yield "}\n"


_RAW = "type filter hook prerouting priority raw; policy accept;"


def _jumps(name: str, networks: list[Network]) -> str:
    jumps = ", ".join(f'"{n.bridge}" : jump {name}__{n.bridge}' for n in networks)
    return f" map {name}-jumps {{\n  type ifname : verdict\n  elements = {{ {jumps} }}\n }}\n"


def _chains_of(network: Network, family: Family) -> Iterator[str]:
    bridge, ip = network.bridge, _NAMES[family]
    come, go = f"filter-forward-in__{bridge}", f"filter-forward-out__{bridge}"
    if network.internal:
        yield from _chain(come, [f'iifname != "{bridge}" counter drop', "counter accept"])
        yield from _chain(go, [f'oifname != "{bridge}" counter drop'])
        return
    known = "ct state established,related counter accept"
    ports = (p for c in network.containers for p in _ports(c, family))
    within = f'iifname "{bridge}" counter accept'
    yield from _chain(come, [known, within, *ports, "counter drop"])
    yield from _chain(go, [known, "counter accept"])
    masquerade = f'oifname != "{bridge}" {ip} saddr {network.subnet(family)} counter masquerade'
    yield from _chain(f"nat-postrouting-out__{bridge}", [masquerade])


def _guards(network: Network, family: Family) -> Iterator[str]:
    for container in network.containers:
        ip, address = _NAMES[family], container.address(family)
        yield f'{ip} daddr {address} iifname != "{network.bridge}" counter drop'


def _ports(container: Container, family: Family) -> Iterator[str]:
    for publication in container.publish:
        ip, address = _NAMES[family], container.address(family)
        port = f"{publication.protocol} dport {publication.container_port}"
        yield f"{ip} daddr {address} {port} counter accept"


def _translations(network: Network, family: Family) -> Iterator[str]:
    for container in network.containers:
        address = container.address(family)
        to = f"[{address}]" if family is Family.IPV6 else str(address)
        for p in container.publish:
            if not p.covers(family):
                continue
            port = f"{p.protocol} dport {p.host_port}"
            yield f'iifname != "{network.bridge}" {port} counter dnat to {to}:{p.container_port}'


def _chain(name: str, rules: Iterator[str] | list[str], hook: str = "") -> Iterator[str]:
    yield f" chain {name} {{\n"
    yield from (f"  {line}\n" for line in (hook, *rules) if line)
    yield " }\n"
