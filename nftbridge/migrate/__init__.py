"""From Docker's own rules to ours, and back, with no moment that is more open than both ends.

Our rules come in first, with DOCKER-USER's before them, and Docker's go out when they are there: in
between a packet has to be let pass by both, and both translate alike. Of Docker's tables filter
goes first and comes back last, so that whoever finds chains of Docker's in it finds all of the
others as well. Each table is one commit, and the policy of FORWARD changes in the one that takes
Docker's rules out.

`tables` is what iptables holds, `theirs` knows what of it is Docker's. `forward` decides about the
FORWARD chain, `exchange` writes the scripts that take Docker's rules out and put them back, `users`
carries DOCKER-USER over, `daemon_json` edits Docker's configuration, `plan` puts it all together:
pure, every one. `record` keeps what was found, `kernel` reads and commits, `configuration` writes
the file, `run` and `undo` do one after the other.
"""
