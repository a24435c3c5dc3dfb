"""What limits each figure, as perf, strace and cProfile show: topic -> contender -> text. Data."""

from __future__ import annotations

WHY: dict[str, dict[str, str]] = {
    "check": {
        "nftbridge": "imports; a third of them argparse, dataclasses and the model's classes",
    },
    "apply": {
        "nftables": (
            "libnftables and the kernel take as long as nft; reading and validating the file,"
            " deriving rows and building the document come on top, in Python"
        ),
        "nft": "parsing JSON, evaluating every element in user space, one transaction",
    },
    "peak": {
        "nftables": (
            "libnftables' copy of the document, two thirds of it; then the host, its rows and"
            " the document as text. Its elements are made for one set at a time"
        ),
        "nft": "1.7 kB for each element",
    },
    "nothing": {
        "nftables": (
            "imports; the files are read for their digest, which is that of the last apply, "
            "and no further"
        ),
    },
    "one-more": {
        "nftables": (
            "half of it is imports, most of these data classes; then ten thousand publications"
            " are read as TOML, compared with those on record and looked through for the new "
            "port. libnftables and the kernel take 5 ms"
        ),
    },
    "one-less-cold": {
        "nftables": "the whole file is read and the whole table listed, as JSON, by libnftables",
    },
    "session": {
        "nftables": (
            "half a dozen small files of the record, and libnftables, which begins each "
            "transaction with an empty cache. No set of ours is one of single prefixes: those it "
            "would list before any change (nft 1.0.6, NFT_CACHE_SETELEM_MAYBE), 5 ms with 1,000 "
            "networks"
        ),
    },
    "session-peak": {
        "nftables": (
            "libnftables, 1.7 kB for each of 300,000 elements: `nft -j -f` of the document alone"
            " takes 530 MB. In two halves it would be two transactions, and packets in between"
            " would meet half of the rules"
        ),
    },
    "session-rest": {
        "nftables": "Python and the modules; what libnftables has freed is given back",
    },
    "established": {
        "plain": (
            "sending is half of it; the rest are veth, two routing decisions and the "
            "conntrack look-up"
        ),
        "nftables": (
            "a hash look-up in raw-PREROUTING, whether the address is a container's own, and one "
            "in DOCKER-CT before the accept; both at any size"
        ),
        "iptables": (
            "raw PREROUTING has a line for each container that publishes, and all are walked"
        ),
        "iptables-tree": "one path through the tree that raw PREROUTING's lines are in",
        "docker-legacy": (
            "as nftbridge's iptables, line for line; all ports are on one container here, so "
            "that raw PREROUTING holds one line"
        ),
        "docker-nft": "the same lines, which nf_tables evaluates more slowly",
        "netavark": "a jump and a rule for each network; nothing in raw",
        "portmap-nftables": (
            "no filter at all, only NAT: established packets meet no rule; another plugin filters"
        ),
        "portmap-iptables": "as with nftables",
    },
    "new": {
        "plain": "conntrack: a new entry, its NAT binding, and a unique tuple for it",
        "nftables": (
            "hash look-ups and two of fib, as many at any size; those that few packets need are "
            "behind gates. Most of the others ask sets that are empty on an ordinary host "
            "(internal and routed networks, addresses of publications). For ten ports a walk over"
            " ten rules is cheaper, and the peers win"
        ),
        "iptables": (
            "every published port is a rule of its own, walked until one matches: in nat and "
            "in filter; many networks add theirs"
        ),
        "iptables-tree": (
            "one path through each tree; with many networks the lines that return from nat's "
            "DOCKER chain, one for each bridge, which no tree can hold"
        ),
        "docker-legacy": (
            "the same lines: every published port is a rule of its own, walked until one "
            "matches, in nat and in filter"
        ),
        "docker-nft": (
            "the same lines, 4 times as dear in nf_tables: every published port is a rule of "
            "its own, walked until one matches"
        ),
        "netavark": (
            "every published port is a rule of its own, walked until one matches; three rules"
            " for each port, behind a jump, so that the walk is long in two chains"
        ),
        "portmap-nftables": (
            "every published port is a rule of its own, walked until one matches: one short "
            "rule in nat, no filter"
        ),
        "portmap-iptables": (
            "15 ports to a multiport line that jumps to a chain of the container, three lines"
            " a port"
        ),
    },
    "outward": {
        "plain": "as a new flow: conntrack, a masquerading binding and a unique tuple for it",
        "nftables": (
            "more hash look-ups than inward, as what comes from a bridge may be for any other, and"
            " its subnet decides on masquerading; as many at any size"
        ),
        "iptables": "what comes from a bridge is compared with every network, four lines for each",
        "iptables-tree": "a path through the trees of bridges",
    },
    "connect": {
        "plain": "socket, three packets through the stack, close; NAT once",
        "nftables": "as a new flow, then two packets of an established one",
        "iptables": "the walk of a new flow, then established packets through raw",
    },
    "publish": {
        "nftables": (
            "python3 and its imports are four fifths at one port; libnftables starts from an "
            "empty cache, and a thousand ports add 25 ms. portmap is a compiled program and "
            "starts in 5 ms"
        ),
        "iptables": "the same start, then iptables-restore for each table that changes",
        "portmap-nftables": (
            "three runs of nft (version, check, load), one transaction; no listing, as it "
            "only appends"
        ),
        "portmap-iptables": (
            "six runs of iptables for each port, and each reads and writes the whole table: "
            "quadratic"
        ),
        "netavark": (
            "bridge, veth and addresses 30 ms; then eight runs of nft, half of them list the "
            "whole table as JSON, four transactions"
        ),
        "netavark-range": "one rule for the whole range: less to load than a thousand rows",
        "docker-legacy": (
            "seven runs of iptables and two userland proxies for each port, one after the "
            "other; each run of iptables reads and writes the whole table: quadratic"
        ),
        "docker-nft": "as with legacy; each run lists the table from the kernel",
    },
    "republish": {
        "nftables": "two whole commands, each with its start",
        "iptables": (
            "two whole commands; before lines are taken away, three thousand are read back "
            "from iptables-save in Python, a third of the time in shlex"
        ),
        "netavark": "eight more runs of nft; rules are found by listing and deleted singly",
        "portmap-nftables": "twelve more runs of nft: three listings to find the handles",
        "portmap-iptables": "taking away is one flush; putting back is as publishing",
        "docker-legacy": "each line is deleted and appended again by a run of iptables",
        "docker-nft": "as with legacy",
    },
    "networks": {
        "nftables": "one ip -batch for the bridges, one transaction for all rules",
        "iptables": "one ip -batch for the bridges, one iptables-restore a table",
        "netavark": "a process for each, which makes a veth and runs nft several times",
        "portmap-nftables": "the bridge plugin: a process for each, with a veth and nft",
        "portmap-iptables": "the bridge plugin: a process for each, with a veth",
        "docker-legacy": "a request for each, and some twenty runs of iptables in it",
        "docker-nft": "as with legacy",
    },
    "run": {
        "docker-legacy": (
            "runs of iptables for each port, one after the other, each of which reads and writes "
            "the whole table; the container's own start is some 0.25 s"
        ),
        "docker-nft": "as with legacy; each run lists the table from the kernel",
        "docker-nftbridge": (
            "the container's own start: all its ports are one transaction, on Docker's word that "
            "it has started. The rest is Docker's, which handles every port by itself"
        ),
    },
    "burst": {
        "docker-legacy": "a hundred starts on two CPUs, in containerd and runc; rules are a tenth",
        "docker-nft": "as with legacy",
        "docker-nftbridge": "the same starts; their rules are gathered for up to 0.5 s",
    },
}
