"""Each diagnosis on a host where traffic really dies or leaks, and its command that mends it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config
from nftbridge.choice import Target, choose
from nftbridge.cli import main
from nftbridge.engine import Engine
from nftbridge.lab import Laboratory, Probe
from nftbridge.lab.topology import HOST
from nftbridge.model import Address, Family, Host
from tests.kernel.hosts import Site

pytestmark = pytest.mark.kernel

HOST_FILE = """
version = 1
[[network]]
name = "front"
bridge = "br-front"
subnets = ["172.20.0.0/16", "fd00:20::/64"]
[[network.container]]
name = "web"
ipv4 = "172.20.0.2"
ipv6 = "fd00:20::2"
publish = ["8080:80"]
[[network.container]]
name = "worker"
ipv4 = "172.20.0.3"
ipv6 = "fd00:20::3"
[[network]]
name = "lab"
bridge = "br-lab"
subnets = ["172.23.0.0/16", "fd00:23::/64"]
gateway_mode_ipv4 = "routed"
gateway_mode_ipv6 = "routed"
[[network.container]]
name = "routed"
ipv4 = "172.23.0.2"
ipv6 = "fd00:23::2"
publish = ["80"]
"""


class Patient:
    """A host in a laboratory with nftbridge applied, and the doctor run on it."""

    def __init__(self, place: Site, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.place = place
        self.file = file
        self._capsys = capsys

    def sh(self, command: str) -> None:
        """Run a command inside the host's namespace, as an administrator would."""
        inside = ["nsenter", f"--net=/run/netns/{self.place.lab.netns}", "sh", "-c", command]
        done = subprocess.run(inside, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def output(self, command: str) -> str:
        """What a program inside the host's namespace prints."""
        inside = ["nsenter", f"--net=/run/netns/{self.place.lab.netns}", "sh", "-c", command]
        return subprocess.run(inside, capture_output=True, text=True, check=True).stdout

    def doctor(self, *words: str) -> dict[str, Any]:
        """What the command says, as data; its exit status fits."""
        target = self.place.target
        where = ["--netns", self.place.lab.netns, "--state-dir", str(target.state_directory)]
        self._capsys.readouterr()
        status = main(["doctor", str(self.file), *where, "--json", *words])
        found: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        assert status == (2 if found["wrong"] else 0), found
        return found

    def mend(self, diagnosis: str) -> dict[str, Any]:
        """Run every command of the finding, verbatim, and return the finding."""
        found = self.finding(diagnosis)
        assert found["commands"], found
        for command in found["commands"]:
            self.sh(command)
        return found

    def mend_all(self, *expected: str) -> None:
        """Run every command of every finding, all of which have to be of these diagnoses."""
        for found in self.doctor()["findings"]:
            assert found["diagnosis"] in expected or found["severity"] == "remark", found
            for command in found["commands"]:
                self.sh(command)

    def finding(self, diagnosis: str, *words: str) -> dict[str, Any]:
        """The first finding of a diagnosis; the test fails if there is none."""
        findings = self.doctor(*words)["findings"]
        named = [f for f in findings if f["diagnosis"] == diagnosis]
        assert named, findings
        return dict(named[0])

    def reaches(self, source: str, target: Address, port: int) -> bool:
        """Whether a TCP connection comes about."""
        (outcome,) = self.place.lab.probe_all([Probe(source, target, "tcp", port)])
        return outcome.reached

    def address(self, node: str, version: int = 4) -> Address:
        return self.place.lab.address(node, Family.IPV4 if version == 4 else Family.IPV6)

    def egress(self, version: int = 4) -> bool:
        return self.reaches("worker", self.address("outside", version), 80)

    def published(self, version: int = 4) -> bool:
        probe = Probe("outside", self.address(HOST, version), "tcp", 8080)
        (outcome,) = self.place.lab.probe_all([probe])
        return outcome.answer is not None and outcome.answer.node == "web"

    def routed(self, version: int = 4) -> bool:
        return self.reaches("outside", self.address("routed", version), 80)

    def all_pass(self, *versions: int) -> bool:
        ways = (self.egress, self.published, self.routed)
        return all(way(version) for way in ways for version in versions or (4, 6))

    def is_well(self) -> bool:
        return self.doctor()["wrong"] is False


def loaded(text: str, folder: Path) -> tuple[Host, Path]:
    file = folder / "host.toml"
    file.write_text(text)
    return config.load(str(file)).host, file


@contextmanager
def admitted(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str], backend: str = "nftables"
) -> Generator[Patient]:
    host, file = loaded(text, folder)
    with Laboratory(host) as lab:
        target = Target(netns=lab.netns, state_directory=folder / "state")
        engine = Engine(target, choose(backend, target).backend)
        engine.apply(host)
        yield Patient(Site(host, lab, target, engine), file, capsys)


@pytest.fixture
def patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Generator[Patient]:
    with admitted(HOST_FILE, tmp_path, capsys) as found:
        yield found


def test_a_healthy_host(patient: Patient) -> None:
    assert patient.all_pass()
    assert patient.doctor()["findings"] == []


FIREWALLS: dict[str, str] = {
    "a default-drop chain": """
table inet filter {
 chain forward {
 type filter hook forward priority filter; policy drop;
 ct state vmap { invalid : drop, established : accept, related : accept }
 iifname "eth9" oifname "eth8" accept
 }
}
""",
    "one that knows no states": """
table inet filter {
 chain forward {
 type filter hook forward priority filter + 5; policy drop;
 ip saddr 203.0.113.0/24 drop
 }
}
""",
    "one that ends in a reject": """
table inet mine {
 chain forward {
 type filter hook forward priority 10; policy accept;
 jump checks
 }
 chain checks {
 ct state established,related accept
 tcp dport 22 accept
 reject with icmpx type admin-prohibited
 }
}
""",
    "one in mangle's place": """
table inet early {
 chain pre {
 type filter hook prerouting priority mangle; policy accept;
 iifname "eth0" meta l4proto tcp ct state new drop
 iifname { "br-front", "br-lab" } ct state new drop
 }
}
""",
    "one after everything": """
table inet late {
 chain post {
 type filter hook postrouting priority 300; policy accept;
 ct state new drop
 }
}
""",
}


@pytest.mark.parametrize("name", FIREWALLS)
def test_another_nftables_firewall_kills(name: str, patient: Patient) -> None:
    patient.sh(f"nft -f - <<'END'\n{FIREWALLS[name]}\nEND")
    assert not patient.all_pass(4)
    assert not patient.all_pass(6)
    patient.mend_all("foreign-drop")
    assert patient.all_pass()
    assert patient.is_well()


IPTABLES: dict[str, str] = {
    "policy, legacy": "iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP",
    "policy, nft": "iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP",
    "a stateful firewall, legacy": """
for t in iptables-legacy ip6tables-legacy; do
  $t -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
  $t -A FORWARD -i eth7 -j ACCEPT
  $t -A FORWARD -j REJECT
done""",
    "ufw's way, nft": """
for t in iptables-nft ip6tables-nft; do
  $t -N ufw-user-forward
  $t -A FORWARD -j ufw-user-forward
  $t -A ufw-user-forward -p tcp -m multiport --dports 22,8443 -j ACCEPT
  $t -P FORWARD DROP
done""",
    "in raw, legacy": """
iptables-legacy -t raw -A PREROUTING -i eth0 -p tcp -m tcp ! --dport 22 -j DROP
ip6tables-legacy -t raw -A PREROUTING -i eth0 -p tcp -m tcp ! --dport 22 -j DROP""",
}


@pytest.mark.parametrize("name", IPTABLES)
def test_another_iptables_firewall_kills(name: str, patient: Patient) -> None:
    patient.sh(IPTABLES[name])
    assert not patient.all_pass(4)
    assert not patient.all_pass(6)
    patient.mend_all("foreign-drop", "early-drop")
    assert patient.all_pass()
    assert patient.is_well()


def test_what_stands_before_stays_in_force(patient: Patient) -> None:
    blocked = patient.address("outside")
    patient.sh(f"iptables-legacy -A FORWARD -s {blocked} -j DROP")
    patient.sh("iptables-legacy -P FORWARD DROP")
    patient.mend("foreign-drop")
    assert patient.egress() is False  # its answers come from the blocked one
    assert patient.published() is False


def test_one_s_own_rule_in_docker_user(patient: Patient) -> None:
    patient.sh("nft add rule inet nftbridge DOCKER-USER iifname br-front counter drop")
    assert patient.egress() is False
    found = patient.mend("foreign-drop")
    assert "chain DOCKER-USER: 'iifname br-front counter drop" in found["where"]
    assert patient.all_pass()
    assert patient.is_well()


def test_several_things_at_once_are_mended_in_the_order_in_which_they_are_told(
    patient: Patient,
) -> None:
    """A left-over with Docker's policy, an administrator's rules and a switch."""
    program = "iptables-legacy"
    patient.sh(_rules(program, LEFT_OVERS["Docker 28.2 to 28.5"][1]))
    patient.sh(f"{program} -P FORWARD DROP; sysctl -qw net.ipv4.ip_forward=0")
    patient.sh(f"{program} -I FORWARD -i br-lab -j DROP")
    patient.sh(
        f"{program} -t raw -A PREROUTING -i eth0 -p tcp -m comment --comment 'a \"b' -j DROP"
    )
    patient.sh(f"{program} -t raw -I PREROUTING -i eth7 -j ACCEPT")
    assert not any(way() for way in (patient.egress, patient.published, patient.routed))
    told = {found["diagnosis"] for found in patient.doctor()["findings"]}
    assert told == {"forwarding-off", "foreign-drop", "early-drop", "docker-left-over"}
    patient.mend_all(*told)
    assert patient.all_pass()
    assert patient.is_well()
    assert "-i eth7" in patient.output(f"{program}-save -t raw")


def test_notrack_kills_translation(patient: Patient) -> None:
    patient.sh(
        "nft 'add table inet fast;"
        " add chain inet fast pre { type filter hook prerouting priority raw; };"
        " add rule inet fast pre tcp dport 8080 notrack'"
    )
    assert patient.published() is False
    patient.mend("untracked")
    assert patient.all_pass()
    assert patient.is_well()


def test_rules_flushed_leak(patient: Patient) -> None:
    patient.sh("nft flush ruleset")
    assert patient.reaches("outside", patient.address("web"), 80)  # never published like this
    (command,) = patient.finding("rules-missing")["commands"]
    assert command.startswith("nftbridge apply ")
    patient.sh(f"{sys.executable} -m {command}")
    assert patient.all_pass()
    assert not patient.reaches("outside", patient.address("web"), 80)
    assert patient.is_well()


@pytest.mark.parametrize(
    ("version", "switch"),
    [
        (4, "net.ipv4.ip_forward"),
        (6, "net.ipv6.conf.all.forwarding"),
    ],
)
def test_forwarding_off(version: int, switch: str, patient: Patient) -> None:
    patient.sh(f"sysctl -qw {switch}=0")
    assert not patient.egress(version)
    patient.mend("forwarding-off")
    assert patient.all_pass()
    assert patient.is_well()


@pytest.mark.parametrize("interface", ["br-front", "eth0"])
def test_forwarding_off_on_one_interface(interface: str, patient: Patient) -> None:
    if interface == "eth0":
        patient.sh(f"ip route add default via {patient.address('outside')}")
    patient.sh(f"sysctl -qw net.ipv4.conf.{interface}.forwarding=0")
    assert not patient.all_pass(4)
    patient.mend("interface-forwarding-off")
    assert patient.all_pass()
    assert patient.is_well()


def test_a_bridge_that_is_down(patient: Patient) -> None:
    patient.sh("ip link set dev br-front down")
    assert not patient.egress()
    patient.mend("bridge-down")
    assert patient.egress()


def test_reverse_path_filter(patient: Patient) -> None:
    """The client's answers leave by another interface than its requests come in by."""
    client = patient.address("outside")
    patient.sh("sysctl -qw net.ipv4.conf.eth0.rp_filter=1")
    patient.sh("ip link add eth9 type veth peer name eth10 && ip link set eth9 up")
    patient.sh(f"ip route add {client} dev eth9")
    patient.sh(f"ip route add table 7 {client} dev eth0 && ip rule add iif br-front table 7")
    to = ("--dst", str(patient.address(HOST)), "--proto", "tcp", "--dport", "8080")
    flow = ("--in", "eth0", "--src", str(client), *to)
    assert patient.published() is False
    found = patient.finding("reverse-path", *flow)
    for command in found["commands"]:
        patient.sh(command)
    assert patient.published()
    assert patient.doctor(*flow)["wrong"] is False


def _rules(program: str, text: str) -> str:
    return "\n".join(f"{program} {line}" for line in text.strip().splitlines())


LEFT_OVERS: dict[str, tuple[str, str]] = {
    "Docker 17.12 to 27": (
        "published",
        """
-t nat -N DOCKER
-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-t nat -A DOCKER ! -i br-front -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.20.0.9:80
-t nat -A POSTROUTING -s 172.20.0.0/16 ! -o br-front -j MASQUERADE
-N DOCKER
-N DOCKER-USER
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-ISOLATION-STAGE-2
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o br-front -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o br-front -j DOCKER
-A FORWARD -i br-front ! -o br-front -j ACCEPT
-A FORWARD -i br-front -o br-front -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i br-front ! -o br-front -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o br-front -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
""",
    ),
    "Docker 28.0.1 to 28.1": (
        "routed",
        """
-t raw -A PREROUTING -d 172.23.0.2 ! -i br-old -p tcp -m tcp --dport 80 -j DROP
-N DOCKER
-N DOCKER-FORWARD
-N DOCKER-CT
-N DOCKER-BRIDGE
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-BRIDGE -o br-old -j DOCKER
""",
    ),
    "Docker 28.2 to 28.5": (
        "published",
        """
-N DOCKER
-N DOCKER-FORWARD
-N DOCKER-CT
-N DOCKER-BRIDGE
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i br-front -j ACCEPT
-A DOCKER-CT -o br-front -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-BRIDGE -o br-front -j DOCKER
-A DOCKER ! -i br-front -o br-front -p tcp -d 172.20.0.9 --dport 80 -j ACCEPT
-A DOCKER ! -i br-front -o br-front -j DROP
""",
    ),
    "Docker 29": (
        "egress",
        """
-N DOCKER
-N DOCKER-FORWARD
-N DOCKER-INTERNAL
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-INTERNAL
-A DOCKER-INTERNAL ! -s 172.20.0.0/16 -o br-front -j DROP
-A DOCKER-INTERNAL ! -d 172.20.0.0/16 -i br-front -j DROP
""",
    ),
    "Docker 1.10 to 17.11": (
        "routed",
        """
-N DOCKER
-N DOCKER-ISOLATION
-A FORWARD -j DOCKER-ISOLATION
-A FORWARD -o br-front -j DOCKER
-A FORWARD -i br-lab -o eth0 -j ACCEPT
-A DOCKER-ISOLATION -i eth0 -o br-lab -j DROP
-A DOCKER-ISOLATION -j RETURN
""",
    ),
}


@pytest.mark.parametrize("program", ["iptables-legacy", "iptables-nft"])
@pytest.mark.parametrize("layout", LEFT_OVERS)
def test_what_docker_left_behind(layout: str, program: str, patient: Patient) -> None:
    victim, text = LEFT_OVERS[layout]
    patient.sh(_rules(program, text))
    patient.sh(f"{program} -A FORWARD -i eth7 -j ACCEPT")
    assert getattr(patient, victim)() is False
    found = patient.mend("docker-left-over")
    assert f"({layout})" in found["sentence"]
    assert patient.all_pass()
    assert patient.is_well()
    rest = patient.output(f"{program}-save")
    chains = [line for line in rest.splitlines() if line.startswith(":DOCKER")]
    kept = [":DOCKER-USER - [0:0]"] if "DOCKER-USER" in text else []
    assert chains == kept
    assert "-A FORWARD -i eth7 -j ACCEPT" in rest
    assert " br-front " not in rest


def test_docker_29_s_nftables_left_behind(patient: Patient) -> None:
    patient.sh("""nft -f - <<'END'
table ip docker-bridges {
 map filter-forward-in-jumps {
 type ifname : verdict
 elements = { "br-front" : jump filter-forward-in__br-front }
 }
 chain filter-FORWARD {
 type filter hook forward priority filter; policy accept;
 oifname vmap @filter-forward-in-jumps
 }
 chain filter-forward-in__br-front {
 ct state established,related counter accept
 iifname "br-front" counter accept
 counter drop comment "UNPUBLISHED PORT DROP"
 }
}
END""")
    assert patient.published() is False
    found = patient.mend("docker-left-over")
    assert "nftables backend" in found["sentence"]
    assert patient.all_pass()
    assert patient.is_well()


TAKERS: dict[str, str] = {
    "CNI portmap": """
table inet cni_hostport {
 chain hostports {
 ip daddr 0.0.0.0/0 tcp dport 8080 dnat ip to 10.88.0.5:80 comment "abc"
 }
 chain prerouting {
 type nat hook prerouting priority dstnat; policy accept;
 fib daddr type local jump hostports
 }
}""",
    "Podman": """
table inet netavark {
 chain nv_1_dnat {
 tcp dport 8000-8100 dnat ip to 10.89.0.5:80
 }
 chain NETAVARK-HOSTPORT-DNAT {
 tcp dport 8000-8100 jump nv_1_dnat
 }
 chain PREROUTING {
 type nat hook prerouting priority dstnat; policy accept;
 fib daddr type local jump NETAVARK-HOSTPORT-DNAT
 }
}""",
    "": """
table ip mine {
 chain pre {
 type nat hook prerouting priority dstnat - 5; policy accept;
 iifname "eth0" tcp dport { 80, 8080 } redirect to :81
 }
}""",
}


@pytest.mark.parametrize("owner", TAKERS)
def test_a_published_port_is_taken(owner: str, patient: Patient) -> None:
    patient.sh(f"nft -f - <<'END'\n{TAKERS[owner]}\nEND")
    assert patient.published() is False
    found = patient.mend("port-taken")
    assert f"({owner})" in found["sentence"] or not owner
    assert any("published port 8080:80/tcp" in kind for kind in found["traffic"])
    assert patient.all_pass()
    assert patient.is_well()


SEPARATED = """
version = 1
[[network]]
name = "tenants"
bridge = "br-tenants"
subnets = ["172.20.0.0/16", "fd00:20::/64"]
icc = false
[[network.container]]
name = "alice"
ipv4 = "172.20.0.2"
ipv6 = "fd00:20::2"
[[network.container]]
name = "bob"
ipv4 = "172.20.0.3"
ipv6 = "fd00:20::3"
"""


def test_bridged_packets_that_netfilter_does_not_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with admitted(SEPARATED, tmp_path, capsys) as patient:
        for switch in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
            patient.sh(f"sysctl -qw net.bridge.{switch}=0")
        for version in (4, 6):
            assert patient.reaches("alice", patient.address("bob", version), 81)
        patient.mend_all("bridge-unfiltered")
        for version in (4, 6):
            assert not patient.reaches("alice", patient.address("bob", version), 81)
        assert patient.is_well()


INTERNAL = """
version = 1
[host]
userland_proxy = false
[[network]]
name = "data"
bridge = "br-data"
subnets = ["172.21.0.0/16"]
internal = true
[[network.container]]
name = "db"
ipv4 = "172.21.0.2"
[[network]]
name = "front"
bridge = "br-front"
subnets = ["172.20.0.0/16"]
[[network.container]]
name = "web"
ipv4 = "172.20.0.2"
publish = ["8080:80"]
"""


@pytest.mark.parametrize("backend", ["iptables", "iptables-nft"])
def test_a_line_before_ours_leaks(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where tables are shared, an accept that stands first is the end of the chain."""
    program = "iptables-nft" if backend == "iptables-nft" else "iptables-legacy"
    with admitted(INTERNAL, tmp_path, capsys, backend) as patient:
        outside = patient.address("outside")
        assert not patient.reaches("db", outside, 80)
        assert patient.doctor()["findings"] == []
        patient.sh(f"{program} -I FORWARD -i br-data -j ACCEPT")
        patient.sh(f"{program} -I FORWARD -o br-data -j ACCEPT")
        assert patient.reaches("db", outside, 80)
        found = patient.mend("accepted-before")
        assert "data: connections of its containers to the outside, IPv4" in found["traffic"]
        assert not patient.reaches("db", outside, 80)


def test_no_proxy_and_no_route_for_loopback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with admitted(INTERNAL, tmp_path, capsys) as patient:
        patient.sh("sysctl -qw net.ipv4.conf.br-front.route_localnet=0")
        loopback = ip_address("127.0.0.1")
        assert not patient.reaches(HOST, loopback, 8080)
        patient.mend("loopback-unroutable")
        assert patient.reaches(HOST, loopback, 8080)
        assert patient.is_well()


# A packet asked about ---------------------------------------------------------------------------


def flow(patient: Patient, port: int = 8080) -> tuple[str, ...]:
    client, host = patient.address("outside"), patient.address(HOST)
    packet = ("--in", "eth0", "--src", str(client), "--dst", str(host))
    return (*packet, "--proto", "tcp", "--dport", str(port))


def test_asked_about_a_packet_it_names_who_decides(patient: Patient) -> None:
    told = patient.doctor(*flow(patient))
    assert told["sentence"].startswith("translated to container web of network front")
    assert told["wrong"] is False
    patient.sh(f"nft -f - <<'END'\n{FIREWALLS['one that ends in a reject']}\nEND")
    told = patient.doctor(*flow(patient))
    (decider,) = [chain for chain in told["chains"] if chain["verdict"] == "dropped"]
    assert (decider["table"], decider["chain"]) == ("table inet mine", "checks")
    assert decider["rule"] == "reject"
    (found,) = told["findings"]
    assert found["traffic"] == ["front: the packet asked about"]
    assert found["where"] == "table inet mine, chain checks: 'reject'"
    assert patient.published() is False
    for command in found["commands"]:
        patient.sh(command)
    assert patient.published()
    assert not patient.egress()  # nothing more was opened than what was asked about


def test_a_packet_that_we_drop_ourselves_is_no_finding(patient: Patient) -> None:
    told = patient.doctor(*flow(patient)[:4], "--dst", "172.20.0.2", "--proto", "icmp")
    assert "dropped" in told["sentence"]
    assert told["findings"] == []


def test_a_packet_asked_about_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--in", "eth0"]) == 1
    assert "give --in, --src, --dst and --proto" in capsys.readouterr().err


def test_for_people(patient: Patient, capsys: pytest.CaptureFixture[str]) -> None:
    patient.sh("iptables-legacy -P FORWARD DROP")
    target = patient.place.target
    where = ["--netns", patient.place.lab.netns, "--state-dir", str(target.state_directory)]
    assert main(["doctor", *where, *flow(patient)]) == 2  # without FILE, as last applied
    lines = capsys.readouterr().out.splitlines()
    decider = "table filter of iptables-legacy, chain FORWARD: policy drop"
    assert f"  {'forward':<20} {'dropped':<11} {decider}" in lines
    assert lines[-1] == "1 thing wrong; 2 tables looked into"


# Whatever else is there ---------------------------------------------------------------------------

STRANGE = """
table inet strange {
 set seen {
 type ipv4_addr
 flags dynamic,timeout
 timeout 1m
 }
 counter hits {
 }
 quota much {
 over 100000 mbytes
 }
 chain forward {
 type filter hook forward priority -5; policy accept;
 tcp flags syn tcp option maxseg size set rt mtu
 update @seen { ip saddr limit rate over 1000/second } drop
 quota name "much" drop
 counter name "hits"
 meta length 1-20 drop
 ct helper "ftp" accept
 meta cpu 77 drop
 numgen random mod 2 vmap { 0 : accept, 1 : continue }
 ip saddr . tcp dport vmap { 203.0.113.9 . 80 : drop }
 exthdr frag exists drop
 @th,16,16 0x1234 drop
 }
}
table bridge below {
 chain forward {
 type filter hook forward priority 0; policy accept;
 }
}
"""


def test_what_is_not_understood_is_named_and_no_more(patient: Patient) -> None:
    patient.sh(f"nft -f - <<'END'\n{STRANGE}\nEND")
    patient.sh("iptables-nft -A FORWARD -m statistic --mode random --probability 0 -j DROP")
    assert patient.all_pass()
    told = patient.doctor()
    assert told["wrong"] is False
    kinds = {found["diagnosis"] for found in told["findings"]}
    assert kinds == {"not-understood", "unread"}
    odd = " ".join(found["where"] or "" for found in told["findings"])
    assert "statistic" in odd
    assert "quota" in odd


def test_not_permitted(patient: Patient) -> None:
    target = patient.place.target
    here = f"{sys.executable} -m nftbridge doctor {patient.file} --state-dir"
    state = f"{target.state_directory} --backend nftables"
    drop = "setpriv --bounding-set=-net_admin --inh-caps=-net_admin"
    inside = ["nsenter", f"--net=/run/netns/{patient.place.lab.netns}", "sh", "-c"]
    done = subprocess.run(
        [*inside, f"{drop} {here} {state}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done
    assert "not permitted" in done.stderr
    assert "Traceback" not in done.stderr
