"""What this kernel and its programs offer: tried for real, in a network namespace thrown away.

`feature` says what a feature is, `nftables` and `iptables` list them, `catalogue` is the whole
table; `found` is what came out of it, and which backend follows. All that is pure. `trial` tries
one feature, in the process that `helper` starts and speaks with; `run` goes through the table.
"""
