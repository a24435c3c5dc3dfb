"""Addresses are read by the C library, and mean what `ipaddress` says they mean."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import example, given
from hypothesis import strategies as st

from nftbridge.notation import read_address

EDGES = st.text("0123456789abfxF:.% \0", max_size=2)
ADDRESSES = st.ip_addresses().map(str)


@given(ADDRESSES | st.builds("{}{}{}".format, EDGES, ADDRESSES, EDGES))
@example("010.0.0.1")
@example("10.0.1")
@example("::ffff:192.0.2.1")
@example("fe80::1%eth0")
@example("1::00000")
@example("1:2:3:4:5:6:7::")
@example("\u0661.0.0.1")
def test_as_ipaddress_reads_them(text: str) -> None:
    refused: list[str] = []
    found = read_address(text, lambda message, _: refused.append(message))
    try:
        known = ip_address(text)
    except ValueError:
        known = None
    if known is not None and known.version == 6 and (known.ipv4_mapped or known.scope_id):
        known = None  # no packet carries those
    assert found == known
    assert bool(refused) is (known is None)
