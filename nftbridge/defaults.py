"""What is taken where the user names nothing."""

from pathlib import Path

TABLE = "nftbridge"
"""Name of the nftables table, of family inet."""

STATE_DIRECTORY = Path("/run/nftbridge")
"""Where what was last applied is kept; like the kernel's tables, gone after a reboot."""

LASTING = Path("/var/lib/nftbridge")
"""Where that is kept which has to outlive a boot: where another firewall drops what is ours."""

HOST_FILES = Path("/etc/nftbridge")
"""The host file, or folder, that the systemd units are for."""

WAIT = 30.0
"""Seconds that another program may hold xtables' lock before apply gives up."""
