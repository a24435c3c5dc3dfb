"""The nftables backend: the program as one table, loaded in one transaction.

`syntax` is nft's language as types, `lower` translates the program into it, `validate` looks at
elements before they are sent, `document` makes transactions and `text` the same for ``nft -f``,
`read` understands listings, `kernel` is the only door to libnftables.
"""
