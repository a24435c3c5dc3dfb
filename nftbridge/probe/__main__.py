"""``python -m nftbridge.probe``: how a probe starts its helper."""

from __future__ import annotations

from nftbridge.probe.helper import serve

if __name__ == "__main__":
    serve()
