"""Nothing of a wrong type gets into a document."""

from __future__ import annotations

import pytest

from nftbridge import config
from nftbridge.nft import document
from nftbridge.nft.lower import KernelSet, rows_in_kernel, skeleton
from nftbridge.nft.validate import check_keys, check_values
from nftbridge.policy.flat import FlatKey

WRONG: list[tuple[str, FlatKey, FlatKey]] = [
    ("guarded4", ("ipv4", "172.20.0.256"), ()),
    ("guarded4", ("ipv4", "fd00::1"), ()),
    ("guarded4", ("ipv4", 5), ()),
    ("guarded6", ("ipv6", "FD00::1"), ()),
    ("bridges", ("ipv5", "br-a"), ()),
    ("bridges", ("ipv4", "br-*"), ()),
    ("bridges", ("ipv4", "a-name-of-sixteen"), ()),
    ("bridges", ("ipv4",), ()),
    ("open_ports4", ("ipv4", "br-a", "172.20.0.2", "tcp", "80"), ()),
    ("open_ports4", ("ipv4", "br-a", "172.20.0.2", "tcp", 65536), ()),
    ("open_ports4", ("ipv4", "br-a", "172.20.0.2", "tcp", True), ()),
    ("open_ports4", ("ipv4", "br-a", "172.20.0.2", "gre", 80), ()),
    ("masqueraded_subnets4", ("ipv4", "172.20.0.1/16"), ()),
    ("masqueraded_subnets4", ("ipv4", "172.20.0.0"), ()),
    ("masqueraded_subnets4", ("ipv6", "172.20.0.0/16"), ()),
    ("published_port4", ("ipv4", "192.0.2.1", "tcp", 80), ("172.20.0.2", "80")),
    ("published_address4", ("ipv4", "192.0.2.1", "tcp", 80), ("fd00::1", 80)),
]


def kernel_set(name: str) -> KernelSet:
    return next(s for s in skeleton().sets if s.name == name)


def check(name: str, key: FlatKey, value: FlatKey) -> None:
    check_keys(kernel_set(name), {key: value})
    check_values(kernel_set(name), {key: value})


@pytest.mark.parametrize(("name", "key", "value"), WRONG)
def test_a_wrong_element_is_refused(name: str, key: FlatKey, value: FlatKey) -> None:
    with pytest.raises(ValueError, match=rf"element of {name}|shorter"):
        check(name, key, value)


def test_every_row_of_a_real_host_is_accepted() -> None:
    host = config.load("rulesets/17-many-networks/host.toml").host
    assert list(document.install("nftbridge", rows_in_kernel(host)))


def test_comments_and_names_fit() -> None:
    parts = skeleton()
    assert max(len(rule.comment.encode()) for rule in parts.rules) <= document.LONGEST_COMMENT
    names = [s.name for s in parts.sets] + [chain.name for chain in parts.chains]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 32  # NFT_NAME_MAXLEN of kernels before 4.14
