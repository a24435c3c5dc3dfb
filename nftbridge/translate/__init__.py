"""Rules of the user's in iptables' words, as iptables-save lists them, become rules of nft.

`line` takes a line apart; `matches`, `connection` and `targets` know what its parts are in nft,
`values` what stands in them; `chains` puts chains together. All of it is pure.

A part that has no equal in nft is refused, with its words and the reason, and its whole line with
it: a rule that lacks a match would be another rule.
"""
