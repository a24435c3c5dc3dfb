"""JSON values that know their place: what is not as Docker writes it is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NoReturn, TypeVar, cast

from nftbridge.errors import InputError, Problem
from nftbridge.model.checks import Path, dotted
from nftbridge.notation import shown

_A = TypeVar("_A", IPv4Address, IPv6Address)
_HINT = "it is not what Docker's inspect prints; save it once more"


@dataclass(frozen=True, slots=True)
class Item:
    """A value in a JSON document of Docker's, at `path` in `source`.

    What is absent reads as null, and null as the empty value: Docker writes either for "none". A
    value of another type raises `InputError`.
    """

    value: object
    source: str
    path: Path = ()

    @property
    def where(self) -> str:
        """The place as people write it."""
        return f"{self.source}: {dotted(self.path)}" if self.path else self.source

    def __getitem__(self, key: str) -> Item:
        return self._below(key, self._mapping().get(key))

    def text(self, default: str = "") -> str:
        """A string."""
        if self.value is None:
            return default
        return self.value if isinstance(self.value, str) else self.refuse("a string")

    def required(self) -> str:
        """A string that has to be there."""
        return self.text() or self.refuse("a string that is not empty")

    def flag(self, *, default: bool = False) -> bool:
        """A boolean."""
        if self.value is None:
            return default
        return self.value if isinstance(self.value, bool) else self.refuse("true or false")

    def number(self, default: int = 0) -> int:
        """A whole number."""
        if self.value is None:
            return default
        whole = isinstance(self.value, int) and not isinstance(self.value, bool)
        return cast("int", self.value) if whole else self.refuse("a whole number")

    def address(self, kind: type[_A]) -> _A | None:
        """An address of one family, with or without prefix length; None if there is none."""
        start = self.text().partition("/")[0]
        try:
            return kind(start) if start else None
        except ValueError:
            return self.refuse(f"an address of {'IPv4' if kind is IPv4Address else 'IPv6'}")

    def elements(self) -> tuple[Item, ...]:
        """The elements of a list."""
        found = self.value
        if found is None:
            return ()
        if not isinstance(found, list):
            return self.refuse("a list")
        values = cast("list[object]", found)
        return tuple(self._below(index, value) for index, value in enumerate(values))

    def members(self) -> dict[str, Item]:
        """The members of an object, by name."""
        return {key: self._below(key, value) for key, value in self._mapping().items()}

    def refuse(self, wanted: str) -> NoReturn:
        """Raise `InputError`: here stands something else than `wanted`."""
        message = f"must be {wanted}, not {shown(self.value)}"
        raise InputError((Problem(self.where, message, _HINT),))

    def _mapping(self) -> Mapping[str, object]:
        found = self.value
        if found is None:
            return {}
        return (
            cast("dict[str, object]", found) if isinstance(found, dict) else self.refuse("a table")
        )

    def _below(self, key: str | int, value: object) -> Item:
        return Item(value, self.source, (*self.path, key))
