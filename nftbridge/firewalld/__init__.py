"""firewalld beside us: its zone, its policies, its reloads. Talks to it over D-Bus.

    presence    whether it runs, asked with a few bytes on the bus's socket; no library
    bus         the only door to jeepney: calls and signals, errors in our words
    daemon      firewalld's methods, with types
    wanted      Host -> what firewalld has to hold for it; pure
    steps       what is missing there, in words; pure
    guard       `Firewalld`: look, plan, put back; what the commands use
    watcher     `Watcher`: a file descriptor that says when something has to be put back

firewalld's forward chain ends in a reject, so that what we accept dies there unless it accepts it
too. As Docker does, every bridge is put into zone ``docker``, target ACCEPT, and policy
``docker-forwarding`` lets packets from anywhere into that zone; what may really enter is decided by
our rules. Zone and policy are permanent and made once; bridges are put in at runtime, and get lost
when firewalld reloads or restarts.

Nothing is imported here: who only asks whether it runs does not pay for the rest.
"""
