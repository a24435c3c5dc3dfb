"""Connections that the kernel follows (conntrack), and the end of those that are no longer allowed.

    apply    what an apply takes away, and the end of it: what the engine asks for
    revoked  what an apply took away, and which flows live by it; pure
    judge    which flows the rules of another host decide otherwise; pure, imported when needed
    kernel   the door to conntrack; imported when something was revoked
    flows    behind it: list the flows, end some; imported when there are any

A flow is decided once, by its first packet: later ones are translated as it was, and let into its
bridge as answers. So rules alone do not end it.
"""
