"""``python -m nftbridge.lab CONTROL_FD WORKER_FD...``: how a laboratory starts its keeper."""

from __future__ import annotations

import sys

from nftbridge.lab.keeper import keep

if __name__ == "__main__":
    keep(*map(int, sys.argv[1:]))
