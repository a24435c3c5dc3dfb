"""Commands that read and write files and look at no kernel."""

from __future__ import annotations

import os
from argparse import Namespace

from nftbridge import defaults
from nftbridge.commands.common import docker_socket, load, print_json, print_lines, target, warn
from nftbridge.errors import InputError, Problem
from nftbridge.model import Family, Host


def check(options: Namespace) -> int:
    """Validate a host file."""
    host = load(options)
    if options.json:
        print_json({"valid": True})
    else:
        print(f"{options.file}: {host.summary()}")
    return 0


def render(options: Namespace) -> int:
    """Print what would be loaded, without looking at any kernel."""
    from nftbridge.mirrored import settled

    print(_rendered(settled(load(options)), options), end="")
    return 0


def import_(options: Namespace) -> int:
    """Make a host file of what a container engine says."""
    from nftbridge.docker import show
    from nftbridge.docker.host import DaemonOptions, host_of
    from nftbridge.docker.process import options_of
    from nftbridge.docker.source import Named, gathered, started

    named = Named(options.docker, options.folder, options.networks, options.containers)
    inspected, source = gathered(named, os.environ)
    said = DaemonOptions(options.userland_proxy, options.allow_direct_routing, options.ip_masq)
    found = host_of(inspected, said.otherwise(options_of(started(named, os.environ))))
    warn(found.remarks)
    as_json = options.json or options.format == "json"
    print(show.as_json(found) if as_json else show.as_toml(found, source), end="")
    return 0


def snippet(options: Namespace) -> int:
    """Print lines with which another firewall lets pass what nftbridge accepts."""
    from nftbridge.snippet import lines

    host = load(options) if options.file else _last_applied(options)
    found = list(lines(host, options.firewall))
    if options.json:
        print_json({"for": options.firewall, "lines": found})
    else:
        print_lines(found)
    return 0


def units(options: Namespace) -> int:
    """Print the systemd units, or write them into a folder."""
    from nftbridge.accepts import Places
    from nftbridge.choice import Target
    from nftbridge.compat.tools import Variant
    from nftbridge.watch.units import made, made_for_docker, written

    docker = docker_socket(options)
    legacy = any(site.variant is Variant.LEGACY for site in Places.at(Target()).sites())
    if docker is None:
        files = made(options.file or str(defaults.HOST_FILES), legacy=legacy)
    else:
        files = made_for_docker(options.file, docker, legacy=legacy)
    if options.write is None:
        if options.json:
            print_json(files)
        else:
            print_lines(f"# {name}\n{text}" for name, text in files.items())
        return 0
    paths = written(options.write, files)
    if options.json:
        print_json({"written": paths})
    else:
        print_lines(f"written: {path}" for path in paths)
        print("next: systemctl daemon-reload && systemctl enable --now nftbridge-watch.service")
    return 0


def _rendered(host: Host, options: Namespace) -> str:
    if options.format in ("restore", "restore6"):
        from nftbridge.compat.text import script
        from nftbridge.compat.tree import LAYOUTS

        family = Family.IPV4 if options.format == "restore" else Family.IPV6
        return script(host, family, LAYOUTS[options.iptables_layout])
    from nftbridge.nft import document, lower, text

    rows, setting = lower.rows_in_kernel(host), lower.Setting.of(host)
    if options.format == "nft":
        return text.script(options.table, rows, setting)
    return document.pretty(document.install(options.table, rows, (), setting)) + "\n"


def _last_applied(options: Namespace) -> Host:
    from nftbridge.engine import state_of

    applied = state_of(target(options)).applied()
    if applied is None:
        problem = Problem("FILE", "no apply is on record", "give the host file")
        raise InputError((problem,))
    return applied
