"""The firewall as one program: constant rules over relations, the host being the relations' rows.

`program` is the vocabulary, `catalogue` declares the relations, `rules` is the whole ruleset,
`derive` turns a host into rows, `evaluate` says what the program does to a packet.
"""
