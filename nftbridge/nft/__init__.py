"""The nftables backend: the program as one table, loaded in one transaction.

`syntax` is nft's language as types, `lower` translates the program into it, `document` makes
transactions, `read` understands listings, `kernel` is the only door to libnftables.
"""
