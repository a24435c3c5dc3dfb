"""What Docker Engine says of its networks and containers, as a host of ours.

`item` reads JSON with places, `networks` and `containers` make parts of the model of one inspected
object each, `host` puts them together: these are pure. `files` and `api` get the JSON, from saved
files or from a running Engine, `process` reads what that was started with, and `show` writes the
host file.
"""
