"""``python -m nftbridge`` is the command ``nftbridge``."""

from nftbridge.cli import run

run()
