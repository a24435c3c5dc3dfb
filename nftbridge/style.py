"""How text is painted on a terminal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Style:
    """Terminal colours (ECMA-48), or none of them."""

    coloured: bool = False

    def added(self, text: str) -> str:
        """Green."""
        return self._painted("32", text)

    def removed(self, text: str) -> str:
        """Red."""
        return self._painted("31", text)

    def title(self, text: str) -> str:
        """Bold."""
        return self._painted("1", text)

    def aside(self, text: str) -> str:
        """Dim."""
        return self._painted("2", text)

    def _painted(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.coloured else text
