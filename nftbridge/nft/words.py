"""The words of nft's language: none of them can be the name of a table on its command line."""

from __future__ import annotations

_WORDS = """
')[1].split('
"""

RESERVED = frozenset(_WORDS.split())
"""What ``nft add table inet NAME`` would not understand as a name."""
