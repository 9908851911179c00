"""How many wrong attempts to prove who one is are borne."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Limits:
    """What is borne within ``window``, which the first of them opens."""

    window: timedelta = timedelta(minutes=10)
    failures: int = 30
    """Of one identity from one address."""
    strangers: int = 120
    """Failures of one address where nothing says whose they are; an office has many people who mistype."""
    begun: int = 60
    """Logins of one address that were begun and not finished, of each kind."""
