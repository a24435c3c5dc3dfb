"""The real kernel as a reader of what is sent: load it in a namespace and list it."""

from __future__ import annotations

import subprocess

from nftbridge.compat import text
from nftbridge.compat.tree import DOCKER, Layout
from nftbridge.model import Family, Host
from nftbridge.nft import document, lower
from nftbridge.nft.kernel import Kernel
from tests.equivalence.compare import TABLE
from tests.equivalence.iptables_reading import IptablesReading
from tests.equivalence.nft_reading import NftReading


def listed_nft(host: Host, netns: str) -> NftReading:
    """What nft lists after the document was loaded; the table is gone afterwards."""
    kernel = Kernel(TABLE, netns)
    rows, setting = lower.rows_in_kernel(host), lower.Setting.of(host)
    kernel.commit(document.install(TABLE, rows, (), setting))
    objects = kernel.objects()
    kernel.commit(document.table_removal(TABLE))
    assert objects is not None
    return NftReading(objects)


def saved_iptables(
    host: Host, family: Family, netns: str, layout: Layout = DOCKER
) -> IptablesReading:
    """What iptables-legacy-save prints after iptables-legacy-restore took the text.

    Without ``--noflush`` each table is emptied first, so a namespace can be used again.
    """
    program = "iptables" if family is Family.IPV4 else "ip6tables"
    enter = ["ip", "netns", "exec", netns]
    restore = [*enter, f"{program}-legacy-restore"]
    script = text.script(host, family, layout)
    subprocess.run(restore, input=script, text=True, check=True, capture_output=True)
    save = [*enter, f"{program}-legacy-save"]
    saved = subprocess.run(save, text=True, check=True, capture_output=True)
    return IptablesReading(saved.stdout, family.version)
