"""What people can do by themselves where nothing but their login stands in the way: log in anew, as it is demanded."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from bastion.core.errors import Refused
from bastion.core.identity import MAX_ACR, MFA, Strength

_ACR = rf"[!-~]{{1,{MAX_ACR}}}"
"""No space in it, since ``acr_values`` are parted by them (OpenID Connect Core 1.0, section 3.1.2.1)."""
_AMR = "[A-Za-z0-9_.:+-]{1,64}"
_METHODS = f"{_AMR}(?:,{_AMR}){{0,7}}"
PATTERN = f"(?:fresh|mfa|acr=({_ACR})(?: amr=({_METHODS}))?|amr=({_METHODS}))"
"""A remedy as text."""


def can_be_asked_for(kind: str, word: str) -> bool:
    """Whether an issuer can be asked for ``word`` as an ``acr``, or as one ``amr``."""
    return re.fullmatch(_ACR if kind == "acr" else _AMR, word) is not None


@dataclass(frozen=True, slots=True)
class Remedy:
    """A login that is made anew.

    Written ``fresh``, ``mfa``, ``acr=urn:example:phr``, ``amr=hwk,pin``, or the last two with a space between them.
    """

    acr: str | None = None
    """What the issuer must call it; None leaves that to the issuer."""
    amr: frozenset[str] = frozenset()
    """Methods that must be among those it was made by."""

    FRESH: ClassVar[Remedy]
    """Any: they proved who they are too long ago."""
    MFA: ClassVar[Remedy]
    """With a second factor."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError: it is not written so."""
        match = re.fullmatch(PATTERN, text)
        if match is None:
            raise ValueError(f"{text[:40]!r} is neither fresh nor mfa, nor acr=VALUE amr=METHOD,METHOD or one of them")
        methods = match[2] or match[3]
        return cls(match[1], frozenset(methods.split(",") if methods else [MFA] if text == "mfa" else []))

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> Self | None:
        """What the query of a URL asks for, as `query` writes it; None when it is any login.

        Raises:
            ValueError: it asks for what nobody could be asked for.
        """
        if "mfa" in query or "fresh" in query:
            return cls.parse("mfa" if "mfa" in query else "fresh")
        words = [f"{name}={query[name]}" for name in ("acr", "amr") if name in query]
        return cls.parse(" ".join(words)) if words else None

    @property
    def query(self) -> dict[str, str]:
        """For the URL of a login page."""
        named = {"acr": self.acr or "", "amr": ",".join(sorted(self.amr))}
        return {str(self): "1"} if self in (self.FRESH, self.MFA) else {name: v for name, v in named.items() if v}

    def __str__(self) -> str:
        if self in (self.FRESH, self.MFA):
            return "mfa" if self.amr else "fresh"
        return " ".join(f"{name}={value}" for name, value in self.query.items())

    @property
    def flags(self) -> str:
        """The options of ``bastion login``, for a shell."""
        if self in (self.FRESH, self.MFA):
            return f"--{self}"
        return " ".join(f"--{name} {shlex.quote(value)}" for name, value in self.query.items())

    @property
    def how(self) -> str:
        """What kind of login it is, to be read after that word; empty when any would do."""
        others = " and ".join(sorted(self.amr - {MFA}))
        kinds = (
            f"of the kind {self.acr}" if self.acr else "",
            f"by {others}" if others else "",
            "with a second factor" if MFA in self.amr else "",
        )
        return " ".join(filter(None, kinds))

    @property
    def sentence(self) -> str:
        """What to do, for a terminal."""
        return f"A fresh login {self.how} would do: bastion login {self.flags}".replace("  ", " ")

    @property
    def weight(self) -> tuple[bool, int, str]:
        """The less it asks for, the less it is."""
        return self.acr is not None, len(self.amr), str(self)

    def is_met_by(self, strength: Strength) -> bool:
        """Whether a login was made like that, whenever."""
        return self.acr in (None, strength.acr) and self.amr <= strength.amr


Remedy.FRESH = Remedy()
Remedy.MFA = Remedy(amr=frozenset({MFA}))


def least(remedies: Iterable[Remedy | None]) -> Remedy | None:
    """The one that asks for least; None when there is none."""
    return min((each for each in remedies if each is not None), key=lambda each: each.weight, default=None)


class StepUpNeeded(Refused):
    """Who somebody is was proven too long ago, or too weakly; after ``remedy`` the same question may be asked again."""

    def __init__(self, public: str, remedy: Remedy) -> None:
        super().__init__(public)
        self.remedy = remedy
