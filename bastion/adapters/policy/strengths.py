"""Which logins the policies ask for by name: literals that ``context.acr`` and ``context.amr`` are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from cedarpy import pst

from bastion.adapters.policy.names import strings, walk
from bastion.core.remedy import Remedy, can_be_asked_for

MAX_REMEDIES = 64
"""Kinds of login that are tried to find the one that a denied person needs, at a quarter of a millisecond each."""

REGISTERED = frozenset(
    "face fpt geo hwk iris kba mca mfa otp pin pwd rba retina sc sms swk tel user vbm wia".split()  # noqa: SIM905 - as it is listed there
)
"""Authentication method references (RFC 8176, section 2). Issuers may have others."""

_ACR, _AMR = (pst.GetAttr(pst.Var("context"), name) for name in ("acr", "amr"))


def remedies(bodies: Iterable[pst.Template]) -> tuple[Remedy, ...]:
    """Every kind of login that could make a difference to these policies, the least first."""
    nothing, found = frozenset[str](), {Remedy.FRESH, Remedy.MFA}
    for body in bodies:
        asked = list(_asked(body))
        acrs = [word for kind, words in asked if kind == "acr" for word in words]
        sets = [frozenset(words) for kind, words in asked if kind == "amr"]
        methods = product([nothing, *sets, nothing.union(*sets)], [nothing, Remedy.MFA.amr])
        found |= {Remedy(acr, some | more) for acr, (some, more) in product([None, *acrs], methods)}
    # Two policies may each ask for a part.
    every = nothing.union(*(remedy.amr for remedy in found))
    found |= {Remedy(remedy.acr, every) for remedy in found}
    return tuple(sorted(found, key=lambda remedy: remedy.weight)[:MAX_REMEDIES])


def unusable(body: pst.Template) -> Iterator[tuple[str, str]]:
    """Words that no login could have: the word, and the sentence about it."""
    for kind, words in _asked(body):
        for word in words:
            if not can_be_asked_for(kind, word):
                yield word, f'"{word}" is no {kind} that could be asked for'
            elif kind == "amr" and (meant := _registered(word)) not in (None, word):
                yield word, f'there is no amr "{word}"; did you mean "{meant}"?'


def _registered(word: str) -> str | None:
    """The registered method of the same letters: a custom one would not be called so."""
    return next((one for one in REGISTERED if sorted(one) == sorted(word.lower())), None)


def _asked(body: pst.Template) -> Iterator[tuple[str, list[str]]]:
    """``acr`` or ``amr``, and the words that are asked for together."""
    for node in walk(body.clauses):
        match node:
            case pst.BinaryOp("eq" | "not_eq", left, right) if _ACR in (left, right):
                yield "acr", strings(right if left == _ACR else left)
            case pst.BinaryOp("contains", literal, holder) if holder == _ACR:
                yield "acr", strings(literal)
            case pst.BinaryOp("contains" | "contains_all" | "eq", holder, literal) if holder == _AMR:
                yield "amr", strings(literal)
            case pst.BinaryOp("contains_any", holder, literal) if holder == _AMR:
                yield from (("amr", [word]) for word in strings(literal))
