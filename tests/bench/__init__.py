"""The benchmark: ``./run bench``. What is compared ran side by side, on one machine, in one run.

running     whole commands with their time; namespaces that go away again
hosts       host files of a given size
traffic     traffic.c, compiled: what a packet and a connection cost
layouts     the ways to program a host that are compared, as data
start       the part `start`: a small command beside the interpreter's own start
apply       the part `apply`: a large host onto an empty kernel
changes     the part `changes`: one port more or less, as a command and in a session
memory      what a session needs, measured in a process of its own
packets     the part `packets`: client - host - container under every layout and size
peers       the part `peers`: Docker, netavark and CNI's portmap, the real programs
figures     series of values, ratios of pairs, targets; pure
why         what limits each figure
tables      Markdown; pure
plot        SVG; pure
results     the figures of one run, committed; README shows them
"""
