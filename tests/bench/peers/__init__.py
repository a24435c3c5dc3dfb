"""Docker, netavark and CNI's portmap, the real programs, driven as their users drive them.

box      their packages from Debian sid, unpacked, as a root file system of their own
json     what netavark and the CNI plugins read
docker, netavark, cni, ours      a driver each: publish, re-create, make networks
changes  the part `peers-changes`: what these cost
packets  the part `peers-packets`: the same traffic under everybody's rules
"""
