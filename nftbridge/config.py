"""Host files: from a file, a folder or standard input to a consistent `Host`, and back to data.

With `schema` (tables and keys) and `notation` (single values) this is all that knows the format.
Whatever bytes come in, what comes out is a `Host` or one `InputError` with every problem.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TextIO, TypeAlias, cast

from nftbridge.errors import InputError, Problem
from nftbridge.model import (
    Container,
    Family,
    Finding,
    Host,
    Network,
    Publication,
    host_findings,
    option_findings,
)
from nftbridge.model.checks import quoted
from nftbridge.model.parts import DOCKERS_PRIORITIES
from nftbridge.notation import written
from nftbridge.schema import (
    FILE_KEYS,
    FLAGS,
    MARKS,
    PRIORITY_KEYS,
    VERSION,
    Path,
    RepeatedKeys,
    Sheet,
    order,
    read_networks,
    read_options,
    read_version,
    table,
)

_SUFFIXES = (".toml", ".json")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # Windows editors write one, which matters on WSL2


@dataclass(frozen=True, slots=True)
class HostFile:
    """What was read: the host, and `warnings` about what it states without effect."""

    host: Host
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Host files as they were read, before anyone has made sense of them.

    `path` is absolute, "" for standard input. Of what is not `vouched` for, since there are
    warnings to be said each time, only that is to be recorded.
    """

    files: tuple[_File, ...]
    path: str = ""
    vouched: bool = True

    def unvouched(self) -> Source:
        """The same where there is something to be said of it."""
        return replace(self, vouched=False)

    def digest(self) -> str:
        """What tells this content from any other; "" if some of it could not be read."""
        if not self.vouched:
            return ""
        import hashlib  # noqa: PLC0415 - 3 ms, only for who applies

        found = hashlib.sha256()
        for file in self.files:
            if isinstance(file.content, _RefusedError):
                return ""
            name = file.sheet.name.encode(errors="surrogatepass")
            for part in (name, file.content):
                found.update(b"%d " % len(part) + part)
        return found.hexdigest()

    def document(self) -> dict[str, Any] | None:
        """What one file holds; None if there are several, or if it makes no sense."""
        if len(self.files) != 1 or not self.vouched:
            return None
        data = self.files[0].data()
        return cast("dict[str, Any]", data) if type(data) is dict else None

    def load(self) -> HostFile:
        """Make sense of them. Raises `InputError` with every problem of all files."""
        return _merged([(file.sheet, file.data()) for file in self.files])


def load(source: str, stdin: TextIO | None = None) -> HostFile:
    """Read a ``.toml`` or ``.json`` file, a folder of them, or JSON from `stdin` for ``-``.

    A folder's files are merged in name order; hidden and other files in it are left alone. Raises
    `InputError` with every problem of all files; places are local to their file.
    """
    return read(source, stdin).load()


def read(source: str, stdin: TextIO | None = None) -> Source:
    """The bytes of what `load` takes; what cannot be read is reported when it is loaded.

    Raises `InputError` if there is no such file or folder.
    """
    if source == "-":
        sheet = Sheet("standard input")
        return Source((_File(sheet, _json, _content(lambda: _read_stdin(stdin))),))
    if os.path.isdir(source):
        return Source(
            tuple(
                _file(os.path.join(source, name), Sheet(_printable(name), in_folder=True))
                for name in _names_in(source)
            ),
            os.path.abspath(source),
        )
    sheet = Sheet(_printable(source))
    if _suffix(source) in _SUFFIXES:
        return Source((_file(source, sheet),), os.path.abspath(source))
    if os.path.exists(source):
        message, hint = "is neither .toml nor .json", "rename it, or give JSON on standard input: -"
    else:
        message, hint = "there is no such file or folder", "give a .toml or .json file, or a folder"
    raise InputError((Problem(sheet.name, message, hint),))


def host_from_data(data: object) -> Host:
    """The host that `host_to_data` described, or `InputError`."""
    return load_data(data).host


def load_data(data: object) -> HostFile:
    """What `load` makes of a file that holds this."""
    return _merged([(Sheet("host"), data)])


def host_to_data(host: Host) -> dict[str, object]:
    """`host` as plain data in the format of a JSON host file, every default spelled out."""
    options: dict[str, object] = {flag: getattr(host, flag) for flag in FLAGS}
    options["wsl2_mirrored"] = "auto" if host.wsl2_mirrored is None else host.wsl2_mirrored
    options["layout"] = host.layout
    options["accept_missing"] = [protection.value for protection in host.accept_missing]
    options["ip_forward"] = host.ip_forward.value
    options["accept_mark"] = _text_or_none(host.accept_mark)
    options["trust_mark"] = _text_or_none(host.trust_mark)
    options["priorities"] = {key: getattr(host.priorities, key) for key in PRIORITY_KEYS}
    networks = [network_to_data(network) for network in host.networks]
    return {"version": VERSION, "host": options, "network": networks}


def read_json(path: str, if_empty: str) -> object:
    """The content of a JSON file of somebody else's. Raises `InputError`.

    `if_empty` is what to do about one that holds nothing.
    """

    def parse(text: str) -> object:
        if not text.strip():
            raise _RefusedError("is empty", if_empty)
        return _json(text)

    sheet = Sheet(_printable(path))
    content = _File(sheet, parse, _content(lambda: _read_file(path))).data()
    if sheet.notes:
        raise InputError(tuple(_problems([sheet])))
    return content


def network_to_data(network: Network) -> dict[str, object]:
    """One network of `host_to_data`."""
    return {
        "name": network.name,
        "bridge": network.bridge,
        "subnets": [str(subnet) for subnet in network.subnets],
        "internal": network.internal,
        "icc": network.icc,
        "masquerade": network.masquerade,
        "gateway_mode_ipv4": network.gateway_mode_ipv4.value,
        "gateway_mode_ipv6": network.gateway_mode_ipv6.value,
        "host_ipv4": _text_or_none(network.host_ipv4),
        "host_ipv6": _text_or_none(network.host_ipv6),
        "trusted_host_interfaces": list(network.trusted_host_interfaces),
        "container": [container_to_data(container) for container in network.containers],
    }


def container_to_data(container: Container) -> dict[str, object]:
    """One container of it."""
    return {
        "name": container.name,
        "ipv4": _text_or_none(container.ipv4),
        "ipv6": _text_or_none(container.ipv6),
        "publish": [publication_to_data(publication) for publication in container.publish],
    }


def publication_to_data(publication: Publication) -> dict[str, object]:
    """One publication of it, always as a table.

    The short syntax cannot say "this host address and no host port".
    """
    return {
        "host_address": _text_or_none(publication.host_address),
        "host_port": _port_data(publication.host_port, publication.count),
        "container_port": _port_data(publication.container_port, publication.count),
        "protocol": publication.protocol.value,
    }


def _port_data(first: int | None, count: int) -> int | str | None:
    return first if first is None or count == 1 else written(range(first, first + count))


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


_Document: TypeAlias = tuple[Sheet, object]
"""A file and its content; `_UNREADABLE` for content that the sheet explains to be missing."""

_UNREADABLE = object()


class _RefusedError(Exception):
    """A file whose content cannot be had: message and hint."""


def _names_in(folder: str) -> list[str]:
    try:
        found = sorted(os.listdir(folder))
    except OSError as error:
        message, hint = f"cannot be listed: {error.strerror}", "check its permissions"
        raise InputError((Problem(_printable(folder), message, hint),)) from None
    names = [name for name in found if name[0] != "." and _suffix(name) in _SUFFIXES]
    if not names:
        message, hint = "holds no .toml or .json file", "put a host file into it"
        raise InputError((Problem(_printable(folder), message, hint),))
    return names


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _printable(name: str) -> str:
    """A file name may hold any bytes but slash and NUL; what is no UTF-8 comes as surrogates."""
    return "".join(c if c.isprintable() else "?" for c in name)


class _File:
    """One file; it is parsed once, when somebody asks for its `data`."""

    def __init__(
        self, sheet: Sheet, parse: Callable[[str], object], content: bytes | _RefusedError
    ) -> None:
        self.sheet = sheet
        self.content = content
        self._parse = parse
        self._data: object = None

    def data(self) -> object:
        """What it holds; `_UNREADABLE`, and a note on the sheet, if that cannot be had."""
        if self._data is None:
            self._data = self._parsed()
        return self._data

    def _parsed(self) -> object:
        try:
            if isinstance(self.content, _RefusedError):
                raise self.content
            return self._parse(_decoded(self.content))
        except _RefusedError as refusal:
            message, hint = refusal.args
            self.sheet.refuse((), message, hint)
        except RecursionError:
            hint = "a host file has five levels at most"
            self.sheet.refuse((), "is nested too deeply", hint)
        return _UNREADABLE


def _file(path: str, sheet: Sheet) -> _File:
    parse = _toml if _suffix(path) == ".toml" else _json
    return _File(sheet, parse, _content(lambda: _read_file(path)))


def _content(read_all: Callable[[], bytes]) -> bytes | _RefusedError:
    try:
        return read_all()
    except _RefusedError as refusal:
        return refusal


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise _RefusedError("there is no such file", "check the path") from None
    except IsADirectoryError:
        raise _RefusedError("is a folder, not a file", "rename it or move it away") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", None) or error
        raise _RefusedError(f"cannot be read: {reason}", "check its permissions") from None


def _read_stdin(stdin: TextIO | None) -> bytes:
    """The bytes of standard input; as a text stream it might refuse to decode them."""
    stream = sys.stdin if stdin is None else stdin
    try:
        raw = getattr(stream, "buffer", None)
        if raw is not None:
            return cast("bytes", raw.read())
        return stream.read().encode(errors="surrogatepass")
    except (OSError, ValueError, AttributeError) as error:  # closed; None if the caller closed it
        raise _RefusedError(f"cannot be read: {error}", "give a JSON document on it") from None


def _decoded(data: bytes) -> str:
    data = data.removeprefix(_BYTE_ORDER_MARK)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        message = f"is not UTF-8: byte 0x{data[error.start]:02x} (at line {line}, column {column})"
        raise _RefusedError(message, "save the file as UTF-8") from None


def _toml(text: str) -> object:
    import tomli  # noqa: PLC0415 - read only when a file needs it

    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
        end = f"at line {line}, column {column}, the end of the file"
        message = f"is not TOML: {error}".replace("at end of document", end)
        raise _RefusedError(message, "check quotes, brackets and names there") from None
    except ValueError:
        raise _RefusedError("holds a number of too many digits", "no key takes one") from None


def _json(text: str) -> object:
    import json  # noqa: PLC0415 - read only when a file needs it

    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        message = f"is not JSON: {error.msg} (at line {error.lineno}, column {error.colno})"
        raise _RefusedError(message, "check quotes, brackets and commas there") from None
    except ValueError:
        raise _RefusedError("holds a number of too many digits", "no key takes one") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    keys = [key for key, _ in pairs]
    doubtful = RepeatedKeys(found)
    doubtful.repeated = tuple(key for key in found if keys.count(key) > 1)
    return doubtful


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where the parts of the merged model stand.

    Per network its file and the index in it; per option that some file sets, that file.
    """

    origins: list[tuple[Sheet, int]]
    owners: dict[str, Sheet]

    def locate(self, path: Path) -> tuple[Sheet, Path]:
        """The file of a place in the model, and the place in that file."""
        if path[0] == "host":
            return self.owners[str(path[1])], path
        sheet, index = self.origins[cast("int", path[1])]
        return sheet, sheet.local(("network", index, *path[2:]))

    def where(self, path: Path) -> str:
        """A place in the model as people find it in their files."""
        sheet, local = self.locate(path)
        return sheet.where(local)


def _merged(documents: list[_Document]) -> HostFile:
    """One host of all files. With parts missing its rules are still checked, as far as known."""
    options, owners = dict[str, Any](), dict[str, Sheet]()
    networks: list[Network] = []
    origins: list[tuple[Sheet, int]] = []
    sheets = [sheet for sheet, _ in documents]
    for sheet, data in documents:
        top = None if data is _UNREADABLE else table(sheet, (), data, FILE_KEYS)
        if top is not None:
            read_version(top)
            read_options(top, options, owners)
            found = read_networks(top)
            networks.extend(found)
            origins.extend((sheet, index) for index in range(len(found)))
    sources = _Sources(origins, owners)
    if not any(sheet.notes for sheet in sheets):
        try:
            host = Host(tuple(networks), **options)
        except InputError:
            pass  # once more below, with places
        else:
            return HostFile(host, tuple(_warnings(host, sources.where)))
    for finding in (*_option_findings(options), *host_findings(networks)):
        _note_finding(finding, sources)
    raise InputError(tuple(_problems(sheets)))


def _option_findings(options: dict[str, Any]) -> Iterator[Finding]:
    accept_mark, trust_mark = (options.get(key) for key in MARKS)
    priorities = options.get("priorities", DOCKERS_PRIORITIES)
    yield from option_findings(accept_mark, trust_mark, priorities)


def _note_finding(finding: Finding, sources: _Sources) -> None:
    """Pass on what the model finds, unless it only follows from something that was unreadable."""
    sheet, path = sources.locate(finding.path)
    if sheet.has_failed(path):
        return
    for basis in finding.basis:
        other, place = sources.locate(basis)
        if other.has_failed(place, or_below=True):
            return
    sheet.note(path, finding.told(sources.where), finding.hint)


def _problems(sheets: list[Sheet]) -> Iterator[Problem]:
    """By file and there in the order of the schema; what concerns a whole file comes first."""
    for sheet in sheets:
        for path, message, hint in sorted(sheet.notes, key=lambda note: order(note[0])):
            yield Problem(sheet.where(path), message, hint)


def _warnings(host: Host, where: Callable[[Path], str]) -> Iterator[Problem]:
    enabled = host.families()
    for i, network in enumerate(host.networks):
        for j, container in enumerate(network.containers):
            at = ("network", i, "container", j)
            for family in Family:
                if family not in enabled and container.address(family) is not None:
                    message = f"{container.address(family)} has no effect: {_off(family)}"
                    hint = f"set {family.value} = true in [host], or remove it"
                    yield Problem(where((*at, family.value)), message, hint)
            usable = [f for f in enabled if container.address(f) is not None]
            for k, publication in enumerate(container.publish):
                if not any(map(publication.covers, usable)):
                    yield _idle(where((*at, "publish", k)), publication, container, enabled)


def _idle(
    where: str, publication: Publication, container: Container, enabled: tuple[Family, ...]
) -> Problem:
    wanted = [family for family in Family if publication.covers(family)]
    lacking = [f for f in wanted if f in enabled and container.address(f) is None]
    reasons = [_off(family) for family in wanted if family not in enabled]
    reasons += [f"container {quoted(container.name)} has no {f.label} address" for f in lacking]
    message = f"{publication} has no effect: {' and '.join(reasons)}"
    return Problem(where, message, "remove it, or give the container an address of that family")


def _off(family: Family) -> str:
    return f"{family.label} is switched off in [host]"
