"""Worlds to judge in: small, and full of near misses.

Every grant is one that covers the wish exactly, changed in up to two places. So most of what must not open almost does,
and enough does open for the tests to see both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_network

from hypothesis import strategies as st

from bastion.core.geofence import Fence, Place, parse_address
from bastion.core.grant import Grant
from bastion.core.policy import Access, Action, Allow, Decision, NotPermitted, Occupied, Permitted, Ruling, decide
from bastion.core.target import Scope
from tests.core.values import CARLA, NOW, PRODUCTION, STAGING, TICK, WEB_1, grant, person

TIERS = {"dev": "nonproduction", "staging": "nonproduction", "production": "production"}
TARGETS = [WEB_1, replace(WEB_1, name="db-1"), replace(WEB_1, scope=PRODUCTION)]
PEOPLE = [CARLA, person("victor", "contractors"), person("carla", "contractors", issuer="https://other.example.com")]

_LOGINS = st.sampled_from(["deploy", "deploy", "admin", "root"])
_ACTIONS = st.sampled_from(Action)
_INSTANTS = st.integers(-2, 2).map(lambda ticks: NOW + ticks * TICK)
"""Around the moment that is judged, a microsecond apart: every boundary is met."""

_PLACES = st.builds(
    Place,
    st.sampled_from(["192.0.2.1", "10.20.0.1", "2001:db8::1"]).map(parse_address),
    st.sampled_from(["DE", "US", None]),
    st.just("test"),
)
_FENCES = st.builds(
    Fence,
    st.sampled_from([{"DE", "US"}, {"DE"}, {"US"}, set()]).map(frozenset),
    st.lists(st.just(ip_network("10.20.0.0/16")), max_size=1).map(tuple),
)
OCCUPIED = st.sampled_from(sorted(TIERS)).map(lambda name: Occupied(f"s-{name}", name, TIERS[name]))
_RULINGS: st.SearchStrategy[Ruling] = st.sampled_from(
    [Permitted(("p",)), Permitted(("p",)), NotPermitted(("forbidden",))]
)


@dataclass(frozen=True, slots=True)
class World:
    """Everything that a decision is made from."""

    access: Access
    fence: Fence
    tier: str
    occupied: tuple[Occupied, ...]
    grants: tuple[Grant, ...]
    rulings: dict[str, Ruling]
    now: datetime

    def decide(self) -> Decision:
        return decide(
            self.access,
            fence=self.fence,
            tier=self.tier,
            occupied=self.occupied,
            grants=self.grants,
            rulings=self.rulings,
            now=self.now,
        )


@st.composite
def wishes(draw: st.DrawFn) -> Access:
    target = draw(st.sampled_from(TARGETS))
    return Access(
        identity=draw(st.sampled_from(PEOPLE)),
        scope=draw(st.sampled_from([target.scope] * 4 + [STAGING, PRODUCTION])),
        target=target,
        login=draw(_LOGINS),
        action=draw(_ACTIONS),
        place=draw(_PLACES),
    )


_CHANGES: dict[str, st.SearchStrategy[object]] = {
    "identity": st.sampled_from(PEOPLE).map(lambda somebody: somebody.id),
    "scope": st.sampled_from([STAGING, PRODUCTION, Scope("staging", "us")]),
    "targets": st.frozensets(st.sampled_from([target.full_name for target in TARGETS] + ["web-1"])),
    "logins": st.frozensets(_LOGINS),
    "actions": st.frozensets(_ACTIONS),
    "starts_at": _INSTANTS,
    "ends_at": _INSTANTS,
    "revoked_at": _INSTANTS,
}


@st.composite
def grants_near(draw: st.DrawFn, wish: Access, number: int, changes: int = 2) -> Grant:
    """A grant that covers ``wish`` exactly, but for so many changes at most."""
    exact = grant(
        id=f"g-{number}",
        identity=wish.identity.id,
        scope=wish.target.scope,
        targets=frozenset({wish.target.full_name}),
        logins=frozenset({wish.login}),
        actions=frozenset({wish.action}),
        starts_at=draw(st.sampled_from([NOW, NOW - TICK])),
        ends_at=NOW + draw(st.integers(1, 3)) * TICK,
        crossing=draw(st.booleans()),
    )
    changed = draw(st.sets(st.sampled_from(sorted(_CHANGES)), max_size=changes))
    return replace(exact, **{name: draw(_CHANGES[name]) for name in sorted(changed)})  # type: ignore[arg-type]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    wish = draw(wishes())
    grants = tuple(draw(grants_near(wish, number)) for number in range(draw(st.integers(0, 3))))
    ruled = [each for each in grants if draw(st.integers(0, 4))]
    return World(
        access=wish,
        fence=draw(_FENCES),
        tier=TIERS[wish.target.scope.environment],
        occupied=tuple(draw(st.lists(OCCUPIED, max_size=2))),
        grants=grants,
        rulings={each.id: draw(_RULINGS) for each in ruled},
        now=NOW,
    )


@st.composite
def open_worlds(draw: st.DrawFn) -> World:
    """Any world, put right where it keeps the door shut."""
    world = draw(worlds())
    place = replace(world.access.place, country="DE")
    wish = replace(
        world.access, scope=world.access.target.scope, login=draw(st.sampled_from(["deploy", "admin"])), place=place
    )
    opening = draw(grants_near(wish, 9, changes=0))
    return replace(
        world,
        access=wish,
        fence=Fence(frozenset({"DE"})),
        grants=(*world.grants, replace(opening, crossing=is_elsewhere(world) or opening.crossing)),
        rulings={**world.rulings, opening.id: Permitted(("p",))},
    )


def any_worlds() -> st.SearchStrategy[World]:
    """About half of them open."""
    return worlds() | open_worlds()


def is_elsewhere(world: World) -> bool:
    """Whether a session is open in another tier."""
    return any(held.tier != world.tier for held in world.occupied)


def allowed(world: World) -> Allow | None:
    decision = world.decide()
    return decision if isinstance(decision, Allow) else None


OPEN = World(
    access=Access(CARLA, STAGING, WEB_1, "deploy", Action.SSH_SHELL, Place(parse_address("192.0.2.1"), "DE", "test")),
    fence=Fence(frozenset({"DE"})),
    tier="nonproduction",
    occupied=(),
    grants=(grant(),),
    rulings={"g-1": Permitted(("p",))},
    now=NOW,
)
"""The ordinary world, in which the door opens."""
