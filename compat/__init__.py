"""The iptables backend: the program as iptables-restore text, one commit per table."""
