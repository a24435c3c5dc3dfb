"""The only door to the iptables programs: list a table, test and run a restore, hold the lock."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TypeAlias

from nftbridge import netns as namespaces
from nftbridge.errors import KernelRefusedError, UnavailableError
from nftbridge.model import Family

LOCK = Path("/run/xtables.lock")
"""What iptables locks with flock(2) while it reads and writes a table, from 1.6 on.

Programs before that lock an abstract socket, and restore locks nothing before 1.6.2: against these
nothing helps. XTABLES_LOCKFILE, which names another file, is heeded from about 1.8.6 on.
"""

TABLES = ("raw", "mangle", "filter", "nat")

_POLL = 0.05
_TRIAL = 3.0  # seconds for a restore of nothing
_PATIENCE = 600.0  # seconds for any program; 100,000 lines need less
_Done: TypeAlias = subprocess.CompletedProcess[str]
_NEEDED = 1 << 12 | 1 << 13  # CAP_NET_ADMIN, CAP_NET_RAW
_NAMES = {Family.IPV4: "ip_tables_names", Family.IPV6: "ip6_tables_names"}
_PACKAGE = "install iptables, e.g. apt install iptables"


class Variant(Enum):
    """Which of the two kernel facilities the programs drive."""

    LEGACY = "legacy"
    NFT = "nft"


@dataclass(slots=True)
class _Lock:
    """xtables' lock: the file while it is ours. `taken_by_restore` is known after a trial."""

    file: int | None = None
    taken_by_restore: bool | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """iptables in one network namespace. `wait` is how many seconds to wait for the lock."""

    variant: Variant = Variant.LEGACY
    netns: str | None = None
    wait: float = 30.0
    _lock: _Lock = field(default_factory=_Lock, kw_only=True, repr=False, compare=False)
    _offered: set[tuple[Family, str]] = field(
        default_factory=set[tuple[Family, str]], kw_only=True, repr=False, compare=False
    )

    @property
    def excludes_others(self) -> bool:
        """Whether nobody else can have changed a table since `locked` was entered."""
        return not self._lock.taken_by_restore

    def present(self, family: Family) -> tuple[str, ...]:
        """The tables that exist. Listing another one would create it."""
        if self.variant is Variant.NFT:
            return TABLES
        with namespaces.inside(self.netns):
            try:
                names = Path(f"/proc/thread-self/net/{_NAMES[family]}").read_text().split()
            except FileNotFoundError:
                return ()  # the module has not been loaded yet
            except OSError as error:
                hint = "run as root"
                raise UnavailableError(
                    f"cannot see iptables' tables: {error}", hint=hint
                ) from error
        return tuple(table for table in TABLES if table in names)

    def save(self, family: Family, table: str) -> str:
        """What iptables-save says of a table, with counters."""
        done = self._run(family, "save", ["-c", "-t", table], "")
        if done.returncode != 0:
            raise refused(done.stderr, "")
        return done.stdout

    def offers(self, family: Family, table: str) -> bool:
        """Whether the kernel has that table, though nobody may have used it yet.

        A table appears where it is asked for, so that is a network namespace thrown away afterwards
        or, if none can be made, the one that is meant.
        """
        if (family, table) in self._offered or table in self.present(family):
            return True
        try:
            with namespaces.thrown_away():
                found = replace(self, netns=None).takes(family, table)
        except UnavailableError:
            found = self.takes(family, table)
        if found:
            self._offered.add((family, table))
        return found

    def takes(self, family: Family, table: str) -> bool:
        """Whether restore takes a script with nothing for that table, which makes it appear."""
        done = self._run(family, "restore", ["--noflush"], f"*{table}\nCOMMIT\n")
        if done.returncode != 0 and ("ermission denied" in done.stderr or not _is_permitted()):
            raise refused(done.stderr, "")
        return done.returncode == 0

    def test(self, family: Family, script: str) -> None:
        """Have a script read and its matches and targets loaded, without committing it."""
        self._restore(family, ["--noflush", "--test"], script)

    def commit(self, family: Family, script: str) -> None:
        """Run a script: one commit for each table in it. Raises `KernelRefusedError`."""
        self._restore(family, ["--noflush"], script)

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold xtables' lock, so that line numbers from a listing stay true until the commit.

        The programs that run meanwhile are pointed at a lock file of their own. Where they do not
        heed that, each takes the lock for itself, and `excludes_others` is false from then on.
        """
        if self.variant is Variant.NFT:  # has transactions of its own and knows no lock
            yield
            return
        with _opened(LOCK) as descriptor:
            _acquire(descriptor, self.wait)
            self._lock.file = descriptor
            try:
                yield
            finally:
                self._lock.file = None

    def _restore(self, family: Family, options: list[str], script: str) -> None:
        done = self._run(family, "restore", options, script)
        if done.returncode != 0:
            raise refused(done.stderr, script)

    def _run(self, family: Family, verb: str, options: list[str], script: str) -> _Done:
        if verb == "restore" and self._lock.file is not None:
            if self._lock.taken_by_restore is None:
                self._lock.taken_by_restore = self._takes_the_lock(family, script)
            if self._lock.taken_by_restore:
                fcntl.flock(self._lock.file, fcntl.LOCK_UN)
                options = ["-w", str(max(1, round(self.wait))), *options]
        try:
            return self._execute(family, verb, options, script, _PATIENCE)
        except subprocess.TimeoutExpired as error:
            message = f"{error.cmd} did not end within {error.timeout:g} seconds, and was ended"
            raise KernelRefusedError(message) from error

    def _takes_the_lock(self, family: Family, script: str) -> bool:
        """Whether restore wants the lock that we hold, and would wait for it for ever."""
        nothing = f"{script.splitlines()[0]}\nCOMMIT\n"
        try:
            done = self._execute(family, "restore", ["--noflush", "--test"], nothing, _TRIAL)
        except subprocess.TimeoutExpired:
            return True
        return "xtables lock" in done.stderr

    def _execute(
        self, family: Family, verb: str, options: list[str], script: str, limit: float
    ) -> _Done:
        """Run a program; raises `subprocess.TimeoutExpired` after `limit` seconds."""
        program = program_for(family, self.variant, verb)
        with tempfile.NamedTemporaryFile(prefix="nftbridge-") as lock:
            # our own lock is held around this; the program would wait for it for ever
            environment = os.environ | {"XTABLES_LOCKFILE": lock.name, "LC_ALL": "C"}
            with namespaces.inside(self.netns):
                try:
                    process = subprocess.Popen(
                        [program, *options],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        env=environment,
                        encoding="utf-8",
                        errors="surrogateescape",  # other people's comments are any bytes
                        process_group=0,
                    )
                except OSError as error:
                    reason = f"{program} cannot be run: {error.strerror}"
                    raise UnavailableError(reason, hint=_PACKAGE) from error
            with process:
                try:
                    output, errors = process.communicate(script, limit)
                except BaseException:
                    os.killpg(process.pid, signal.SIGKILL)  # a script around it with all it began
                    raise
        return subprocess.CompletedProcess(program, process.returncode, output, errors)


@cache
def program_for(family: Family, variant: Variant, verb: str) -> str:
    """The program that saves or restores, as it is called on this system.

    Where there is one iptables only, as before 1.8 and on many vendors' systems, its programs have
    plain names; what it drives is told by their version. Raises `UnavailableError`.
    """
    name = "iptables" if family is Family.IPV4 else "ip6tables"
    program, plain = f"{name}-{variant.value}-{verb}", f"{name}-{verb}"
    if shutil.which(program) is not None:
        return program
    if shutil.which(plain) is not None and _variant_of(plain) is variant:
        return plain
    raise UnavailableError(f"{program} is missing", hint=_PACKAGE)


def _variant_of(program: str) -> Variant:
    """What a program with a plain name drives: it says so in brackets, from 1.8 on."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return Variant.NFT if "(nf_tables)" in done.stdout else Variant.LEGACY


@contextmanager
def _opened(path: Path) -> Generator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        hint = "run as root"
        raise UnavailableError(f"cannot open {path}: {error.strerror}", hint=hint) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        else:
            return
        if time.monotonic() >= deadline:
            raise KernelRefusedError(
                f"another program has held {LOCK} for {wait:g} seconds, nothing was changed",
                hint="wait for it to end, or allow more time with --wait",
            )
        time.sleep(_POLL)


def _is_permitted() -> bool:
    """Whether this process may change a packet filter: CAP_NET_ADMIN, CAP_NET_RAW for legacy.

    The programs do not always tell: without it old ones say that there is no such table.
    """
    status = Path("/proc/thread-self/status").read_text()
    effective = int(status.partition("\nCapEff:")[2].split(maxsplit=1)[0], 16)
    return effective & _NEEDED == _NEEDED


def refused(errors: str, script: str) -> KernelRefusedError | UnavailableError:
    """What a program said, as an error that names the line of the script, if it says which."""
    lines = [line for line in errors.splitlines() if line.strip() and not line.startswith("Try `")]
    reason = (
        re.sub(r"^ip6?tables(-\w+)*( v\S+ \(\w+\))?: ", "", lines[0])
        if lines
        else "no reason given"
    )
    denied = "ermission denied" in errors or "you must be root" in errors
    if denied or not _is_permitted():
        hint = "run as root, or with CAP_NET_ADMIN and CAP_NET_RAW in that network namespace"
        return UnavailableError(f"iptables is not permitted: {reason}", hint=hint)
    if "xtables lock" in errors:
        hint = "wait for it to end, or allow more time with --wait"
        return KernelRefusedError(f"another program holds {LOCK}: {reason}", hint=hint)
    found = re.search(r"line:? (\d+)", errors)
    culprit = ""
    listed = script.splitlines()
    if found and 0 < int(found[1]) <= len(listed):
        culprit = f"line '{listed[int(found[1]) - 1]}'"
    return KernelRefusedError(f"iptables refused it: {reason}", culprit=culprit)
