"""The words of nft's language: none of them can be the name of a table on its command line."""

from __future__ import annotations

_WORDS = """
accept add arp bridge bytes chain chains comment continue counter counters ct daddr delete
describe destroy device dnat drop dup elements ether export fib flags flow flowtable flush fwd
goto handle hash hook icmp icmpv6 import include index inet insert ip ip6 iif iifname jump
last limit limits list log map maps mark masquerade meta meter monitor netdev notrack numgen
oif oifname osf over performance policy position prerouting priority queue quota redefine
redirect reject rename replace reset return rt rule rules ruleset saddr sctp secmark set sets
size snat socket synproxy table tables tcp timeout tproxy type typeof udp undefine until
update vlan vmap
"""

RESERVED = frozenset(_WORDS.split())
"""What ``nft add table inet NAME`` would not understand as a name."""
