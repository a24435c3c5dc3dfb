"""The service that keeps a host as declared: `nftbridge watch`.

    files       inotify: the host file or folder may have changed
    ruleset     netlink: a transaction of nf_tables was about a table of ours
    bus         D-Bus: firewalld has started, reloaded or stopped
    docker      HTTP: an Engine tells of its containers and networks, and answers about them
    lane        when to act on what they say, and one process at a time that does it
    work        what such a process does: `applying`, and what came of it as plain data
    child       a process forked for one piece of work
    service     the loop that joins them
    systemd     readiness, status and life signs for the service manager
    log         a line for each thing that happened
    units       the systemd units

Nothing is polled, but for an Engine's swarm, of which it does not tell all. libnftables and the
iptables programs are used in forked processes only: if one of them crashes, hangs or eats memory,
the service says so and does it again.
"""
