"""The policies say yes only cleanly: a permit that applies, no forbid, no error, and for a connection its grant."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.adapters.policy import CedarPolicies, schema_text
from bastion.adapters.policy.statements import split
from bastion.core.errors import ConfigError
from bastion.core.files import Limits, Paths
from bastion.core.geofence import Fence, Place, parse_address
from bastion.core.grant import Grant
from bastion.core.hours import Hours
from bastion.core.identity import Identity, IdentityId, IdentityKind, Strength
from bastion.core.policy import SSH_ACTIONS, Access, Action, Demands, NotPermitted, Permitted, Power, Ruling
from bastion.core.policy import strictest as strictest_of
from bastion.core.remedy import Remedy
from bastion.core.target import Catalogue, Environment, Region, Scope, Target, catalogue_of
from bastion.core.ticket import TicketPattern
from tests.site import EXAMPLE

POLICY = (EXAMPLE / "policy.cedar").read_text()
TEMPLATE = (
    '@id("connect-with-grant")\npermit (principal == ?principal, action in Action::"connect", resource == ?resource);\n'
)
NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
"""A Monday."""

STAGING, PRODUCTION = Scope("staging", "eu"), Scope("production", "eu")
LOGINS = frozenset({"deploy", "root"})
WEB = Target("web-1", STAGING, "10.20.1.5", 22, LOGINS, host_keys=("a key",))
LIVE = replace(WEB, scope=PRODUCTION)
BERLIN = Place(parse_address("10.20.0.7"), "DE", "a network")


@pytest.fixture
def catalogue() -> Catalogue:
    return make_catalogue()


def make_catalogue() -> Catalogue:
    return catalogue_of(
        [
            Environment("dev", "nonproduction"),
            Environment("staging", "nonproduction"),
            Environment("production", "production"),
        ],
        [Region("eu", Fence(frozenset({"DE"}))), Region("us", Fence(frozenset({"US"})))],
        [WEB, LIVE],
    )


def somebody(*groups: str, subject: str = "carla", mfa: bool = False, logged_in: timedelta = timedelta()) -> Identity:
    return Identity(
        id=IdentityId("https://login.example.com", subject),
        email="carla@example.com",
        name=None,
        groups=frozenset(groups),
        kind=IdentityKind.PERSON,
        authenticated_at=NOW - logged_in,
        amr=frozenset({"mfa"} if mfa else ()),
    )


CARLA = somebody("contractors")


def grant_for(access: Access) -> Grant:
    """A grant that covers exactly ``access``."""
    return Grant(
        id="g-1",
        request_id="r-1",
        identity=access.identity.id,
        scope=access.target.scope,
        targets=frozenset({access.target.full_name}),
        logins=frozenset({access.login}),
        actions=SSH_ACTIONS,
        starts_at=NOW,
        ends_at=NOW + timedelta(hours=1),
        approved_by=(),
        reason="a test",
    )


def wish(
    identity: Identity = CARLA,
    target: Target = WEB,
    login: str = "deploy",
    action: Action = Action.SSH_SHELL,
    place: Place = BERLIN,
) -> Access:
    return Access(identity, target.scope, target, login, action, place)


def ask(text: str, access: Access) -> Ruling:
    return CedarPolicies(text, make_catalogue()).may_connect(access, grant_for(access), NOW)


# ------------------------------------------------------------------------------------------------------ connections


@pytest.mark.parametrize("action", Action)
def test_a_grant_opens_what_it_covers_and_is_named(action: Action) -> None:
    grant = replace(grant_for(wish()), actions=frozenset({action}))
    ruling = CedarPolicies(POLICY, make_catalogue()).may_connect(wish(action=action), grant, NOW)
    assert ruling == Permitted(("g-1:web-1.staging.eu/deploy",))


def test_a_forbid_wins_over_a_grant_and_is_named() -> None:
    assert ask(POLICY, wish(target=LIVE, login="root")) == NotPermitted(("Forbidden by policy no-root-on-production.",))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"identity": somebody(subject="mallory").id}, "Grant g-1 is somebody else's."),
        ({"scope": PRODUCTION}, "Grant g-1 is for production/eu, not staging/eu."),
        ({"targets": frozenset()}, "Grant g-1 is for nothing, not web-1.staging.eu."),
        ({"logins": frozenset({"root"})}, "Grant g-1 is for the login root, not deploy."),
        ({"actions": frozenset({Action.SSH_EXEC})}, "Grant g-1 does not include ssh:shell."),
        ({"ends_at": NOW}, "Grant g-1 ended at 2026-03-02 09:30:00 UTC."),
        ({"revoked_at": NOW}, "Grant g-1 was revoked at 2026-03-02 09:30:00 UTC."),
        ({"paths": frozenset({"/var/log/"})}, "Grant g-1 is for files in /var/log/, not for ssh:shell."),
    ],
)
def test_a_grant_of_something_else_opens_nothing(catalogue: Catalogue, change: dict[str, Any], reason: str) -> None:
    grant = replace(grant_for(wish()), **change)
    assert CedarPolicies(POLICY, catalogue).may_connect(wish(), grant, NOW) == NotPermitted((reason,))


def test_a_permit_for_everybody_opens_nothing_without_the_grant() -> None:
    conditional = TEMPLATE.replace(";", " when { context.mfa };")
    text = conditional + '@id("everybody") permit (principal, action, resource);'
    assert ask(text, wish()) == NotPermitted(
        ("Permitted by everybody, but not by grant g-1: nothing opens without a grant.",)
    )
    assert isinstance(ask(text, wish(somebody(mfa=True))), Permitted)


def test_the_engine_itself_allows_when_a_forbid_errs_and_we_do_not() -> None:
    """The trap that decides how this adapter is written: a policy that errs is skipped."""
    errs = '@id("never") forbid (principal, action, resource) when { 9223372036854775807 + context.hour > 0 };'
    bare = errs.replace("context.hour", "9") + '@id("all") permit (principal, action, resource);'
    request = {"principal": 'A::"a"', "action": 'Action::"a"', "resource": 'A::"a"', "context": {}}
    answer = cedarpy.is_authorized(request, bare, [])
    assert answer.decision is cedarpy.Decision.Allow
    assert len(answer.diagnostics.errors) == 1

    ruling = ask(TEMPLATE + errs, wish())
    assert isinstance(ruling, NotPermitted)
    assert ruling.reasons[0].startswith("The policies could not be evaluated, and what cannot be judged is refused: ")
    assert "never" in ruling.reasons[0]


def test_an_error_of_a_permit_denies_too() -> None:
    errs = '@id("odd") permit (principal, action, resource) when { 9223372036854775807 + context.hour > 0 };'
    assert isinstance(ask(TEMPLATE + errs, wish()), NotPermitted)


def test_a_target_may_be_called_what_the_engine_calls_policies() -> None:
    target = replace(WEB, name="policy1")
    policies = CedarPolicies(
        POLICY,
        catalogue_of(
            [Environment("staging", "nonproduction"), Environment("production", "production")],
            [Region("eu", Fence())],
            [target],
        ),
    )
    ruling = policies.may_connect(wish(target=target), grant_for(wish(target=target)), NOW)
    assert ruling == Permitted(("g-1:policy1.staging.eu/deploy",))


def test_a_target_of_an_older_configuration_is_not_there(catalogue: Catalogue) -> None:
    policies = CedarPolicies(POLICY, catalogue)
    for target in (replace(WEB, name="web-2"), replace(WEB, host="10.20.1.6"), replace(WEB, scope=Scope("qa", "eu"))):
        ruling = policies.may_connect(wish(target=target), grant_for(wish(target=target)), NOW)
        assert ruling == NotPermitted((f"There is no target {target.full_name} as it was asked for.",))


def test_a_login_that_the_target_does_not_have_is_refused() -> None:
    assert ask(POLICY, wish(login="admin")) == NotPermitted(("web-1.staging.eu has no login admin.",))


# ------------------------------------------------------------------------------------------------- what can be said

# A condition under which the connection of `wish()` is forbidden, and whether it holds for it.
CONDITIONS = {
    'principal in Group::"contractors"': True,
    'principal in Group::"sre"': False,
    'principal == Identity::"https://login.example.com#carla"': True,
    'principal.kind == "workload"': False,
    'principal has email && principal.email like "*@example.com"': True,
    'resource in Environment::"staging"': True,
    'resource in Environment::"production"': False,
    'resource in Region::"eu"': True,
    'resource in Scope::"staging/eu"': True,
    'resource in Target::"web-1.staging.eu"': True,
    'resource == Login::"web-1.staging.eu/root"': False,
    'resource in Bastion::"bastion"': True,
    'resource.environment == "staging" && resource.region == "eu" && resource.tier == "nonproduction"': True,
    'resource.target == "web-1.staging.eu" && resource.login == "deploy"': True,
    '["dev", "production"].contains(resource.environment)': False,
    'context.address.isInRange(ip("10.20.0.0/16"))': True,
    'context has country && context.country == "DE"': True,
    'context.now > datetime("2026-03-02T09:29:59Z") && context.now < datetime("2026-03-02T09:30:01Z")': True,
    "context.hour == 9 && context.weekday == 1": True,
    "context.mfa": False,
    "context.crossing": False,
    'context.authenticated_age >= duration("1h")': False,
    'action == Action::"ssh:shell"': True,
    'action == Action::"ssh:exec"': False,
    'action in Action::"connect"': True,
}


@pytest.mark.parametrize(("condition", "holds"), CONDITIONS.items(), ids=CONDITIONS)
def test_policies_can_speak_about_who_what_where_and_when(condition: str, holds: bool) -> None:
    forbid = f'@id("this") forbid (principal, action in Action::"connect", resource) when {{ {condition} }};'
    ruling = ask(TEMPLATE + forbid, wish())
    assert isinstance(ruling, NotPermitted if holds else Permitted)


@pytest.mark.parametrize(
    ("identity", "condition"),
    [
        (somebody(mfa=True), "context.mfa"),
        (somebody(logged_in=timedelta(hours=1)), 'context.authenticated_age == duration("1h")'),
        (somebody(logged_in=timedelta(hours=-1)), 'context.authenticated_age == duration("0s")'),
        (replace(CARLA, kind=IdentityKind.WORKLOAD), 'principal.kind == "workload"'),
        (replace(CARLA, email=None), "!(principal has email)"),
    ],
    ids=["mfa", "an hour ago", "a clock that is ahead", "workload", "no e-mail"],
)
def test_how_somebody_logged_in_is_known(identity: Identity, condition: str) -> None:
    forbid = f'@id("this") forbid (principal, action in Action::"connect", resource) when {{ {condition} }};'
    assert isinstance(ask(TEMPLATE + forbid, wish(identity)), NotPermitted)


def test_an_unknown_country_has_no_name() -> None:
    nowhere = replace(BERLIN, country=None)
    text = TEMPLATE + '@id("known") forbid (principal, action, resource) unless { context has country };'
    assert isinstance(ask(text, wish()), Permitted)
    assert ask(text, wish(place=nowhere)) == NotPermitted(("Forbidden by policy known.",))


def test_a_crossing_is_known_by_its_grant(catalogue: Catalogue) -> None:
    text = (
        TEMPLATE
        + '@id("no-crossing") forbid (principal, action in Action::"connect", resource) when {context.crossing};'
    )
    policies = CedarPolicies(text, catalogue)
    assert isinstance(policies.may_connect(wish(), grant_for(wish()), NOW), Permitted)
    crossing = replace(grant_for(wish()), crossing=True)
    assert policies.may_connect(wish(), crossing, NOW) == NotPermitted(("Forbidden by policy no-crossing.",))


@given(st.text(min_size=1, max_size=40), st.lists(st.text(max_size=20), max_size=4))
def test_names_that_people_chose_are_only_names(subject: str, groups: list[str]) -> None:
    """Quotes, newlines and code in a subject or a group reach the engine as data, or the answer is no."""
    identity = somebody(*groups, subject=subject)
    policies = _EXAMPLE
    assert isinstance(policies.may_connect(wish(identity), grant_for(wish(identity)), NOW), Permitted)
    if not {"sre", "auditors"} & set(groups):
        assert isinstance(policies.may(Power.ADMINISTER, identity, BERLIN, NOW), NotPermitted)
        assert isinstance(policies.may(Power.REPLAY, identity, BERLIN, NOW, target=WEB), NotPermitted)


def test_a_name_that_the_engine_cannot_hold_is_refused() -> None:
    identity = somebody("contractors", subject="a\ud800b")
    ruling = ask(POLICY, wish(identity))
    assert isinstance(ruling, NotPermitted)
    assert "what cannot be judged is refused" in ruling.reasons[0]


_EXAMPLE = CedarPolicies(POLICY, make_catalogue())
"""For hypothesis, which asks it a hundred times."""


# ----------------------------------------------------------------------------------------------------------- powers


@pytest.mark.parametrize(
    ("power", "group", "target", "policy"),
    [
        (Power.REQUEST, "contractors", WEB, "contractors-request-nonproduction"),
        (Power.REQUEST, "contractors", LIVE, "contractors-request-production"),
        (Power.REVIEW, "sre", LIVE, "sre-review"),
        (Power.REPLAY, "auditors", WEB, "auditors-replay"),
        (Power.ADMINISTER, "sre", WEB, "sre-administer"),
    ],
)
def test_powers_belong_to_their_groups(
    catalogue: Catalogue, power: Power, group: str, target: Target, policy: str
) -> None:
    policies = CedarPolicies(POLICY, catalogue)
    questions: list[dict[str, Any]] = [
        {"target": target},
        {"target": target, "login": "deploy"},
        {"scope": target.scope},
    ]
    for over in questions:
        ruling = policies.may(power, somebody(group), None, NOW, **over)
        assert isinstance(ruling, Permitted), (over, ruling)
        assert ruling.policies == (policy,)
        for place in (None, BERLIN):
            refused = policies.may(power, somebody("visitors"), place, NOW, **over)
            assert isinstance(refused, NotPermitted)


def test_everything_at_once_is_replayed_and_administered_only(catalogue: Catalogue) -> None:
    text = TEMPLATE + '@id("all") permit (principal, action, resource);'
    policies = CedarPolicies(text, catalogue)
    assert isinstance(policies.may(Power.REPLAY, CARLA, BERLIN, NOW), Permitted)
    assert isinstance(policies.may(Power.ADMINISTER, CARLA, BERLIN, NOW), Permitted)
    for power in (Power.REQUEST, Power.REVIEW):
        assert policies.may(power, CARLA, BERLIN, NOW) == NotPermitted(
            (f"To {power} needs a target or a scope; it is never over everything.",)
        )


def test_a_permit_on_one_environment_is_not_one_on_everything(catalogue: Catalogue) -> None:
    permit = '@id("staging-only") permit (principal, action, resource in Environment::"staging");'
    policies = CedarPolicies(TEMPLATE + permit, catalogue)
    assert isinstance(policies.may(Power.ADMINISTER, CARLA, BERLIN, NOW, target=WEB), Permitted)
    assert isinstance(policies.may(Power.ADMINISTER, CARLA, BERLIN, NOW, scope=STAGING), Permitted)
    assert isinstance(policies.may(Power.ADMINISTER, CARLA, BERLIN, NOW, target=LIVE), NotPermitted)
    assert isinstance(policies.may(Power.ADMINISTER, CARLA, BERLIN, NOW), NotPermitted)


@pytest.mark.parametrize(
    "over",
    [
        pytest.param({"login": "deploy"}, id="a login of nothing"),
        pytest.param({"target": WEB, "scope": PRODUCTION}, id="a target of another scope"),
        pytest.param({"target": WEB, "login": "admin"}, id="a login that is not there"),
        pytest.param({"scope": Scope("qa", "eu")}, id="a scope that is not there"),
    ],
)
def test_a_question_that_means_nothing_is_refused(catalogue: Catalogue, over: dict[str, Any]) -> None:
    text = TEMPLATE + '@id("all") permit (principal, action, resource);'
    ruling = CedarPolicies(text, catalogue).may(Power.REPLAY, CARLA, BERLIN, NOW, **over)
    assert isinstance(ruling, NotPermitted)


def test_no_policy_denies(catalogue: Catalogue) -> None:
    policies = CedarPolicies(TEMPLATE, catalogue)
    for power in Power:
        ruling = policies.may(power, somebody("sre", "auditors", "contractors"), BERLIN, NOW, target=WEB)
        assert ruling == NotPermitted((f"No policy permits carla@example.com to {power} on web-1.staging.eu.",))


def test_a_denial_says_which_permit_was_near(catalogue: Catalogue) -> None:
    text = TEMPLATE + (
        '@id("by-group") permit (principal in Group::"leads", action == Action::"review", resource);'
        '@id("by-place") permit (principal, action == Action::"review", resource in Environment::"dev");'
        '@id("by-kind") permit (principal, action == Action::"review", resource is Scope in Region::"eu");'
        '@id("by-time") permit (principal, action == Action::"review", resource) when { context.hour > 20 };'
        '@id("far") permit (principal in Group::"leads", action == Action::"review", resource in Region::"us");'
        '@id("else") permit (principal in Group::"leads", action == Action::"replay", resource);'
    )
    assert CedarPolicies(text, catalogue).may(Power.REVIEW, CARLA, BERLIN, NOW, target=WEB) == NotPermitted(
        (
            "No policy permits carla@example.com to review on web-1.staging.eu.",
            "Policy by-group would permit it to the group leads.",
            "Policy by-place would permit it on the environment dev.",
            "Policy by-kind would permit it on a scope in the region eu.",
        )
    )


# ---------------------------------------------------------------------------------------------------------- demands


def test_a_request_learns_what_its_permit_demands(catalogue: Catalogue) -> None:
    ruling = CedarPolicies(POLICY, catalogue).may(Power.REQUEST, CARLA, None, NOW, target=LIVE)
    assert ruling == Permitted(
        ("contractors-request-production",), Demands(2, frozenset({"sre"}), timedelta(hours=2), mfa=False)
    )


def test_of_several_permits_the_strictest_of_each_demand_counts(catalogue: Catalogue) -> None:
    text = TEMPLATE + (
        '@id("a") @approvals("3") @max_duration("4h") permit (principal, action == Action::"request", resource);'
        '@id("b") @reviewers("sre, leads") @max_duration("90m") permit (principal, action, resource);'
        '@id("c") @reviewers("leads,own") @mfa("required") permit (principal, action == Action::"request", resource);'
        '@id("d") @approvals("9") permit (principal in Group::"sre", action == Action::"request", resource);'
    )
    assert CedarPolicies(text, catalogue).may(Power.REQUEST, CARLA, None, NOW, target=WEB) == Permitted(
        ("a", "b", "c"), Demands(3, frozenset({"leads"}), timedelta(minutes=90), mfa=True)
    )


def test_reviewers_without_a_group_in_common_are_nobody_and_not_anybody(catalogue: Catalogue) -> None:
    text = TEMPLATE + (
        '@id("a") @reviewers("sre") permit (principal, action == Action::"request", resource);'
        '@id("b") @reviewers("leads") permit (principal, action == Action::"request", resource);'
    )
    assert CedarPolicies(text, catalogue).may(Power.REQUEST, CARLA, None, NOW, target=WEB) == NotPermitted(
        ("Policies a and b ask for reviewers of different groups, so nobody can review it.",)
    )


_DEMANDS = st.builds(
    Demands,
    approvals=st.integers(1, 9),
    reviewers=st.frozensets(st.sampled_from(["sre", "leads", "owners"])),
    max_duration=st.none() | st.timedeltas(timedelta(minutes=1), timedelta(days=30)),
    mfa=st.booleans(),
    automatic=st.booleans(),
    min_reason=st.integers(0, 200),
    tickets=st.frozensets(st.sampled_from([TicketPattern("[A-Z]+-[0-9]+"), TicketPattern("OPS-[0-9]+")])),
    hours=st.frozensets(st.just(Hours.parse("Mon-Fri 08:00-18:00 Europe/Berlin"))),
)


@given(st.lists(_DEMANDS, max_size=4))
def test_the_strictest_is_never_looser_than_any(each: list[Demands]) -> None:
    strictest = strictest_of(each)
    for one in each if strictest is not None else ():
        assert strictest is not None
        assert strictest.automatic <= one.automatic
        assert strictest.min_reason >= one.min_reason
        assert strictest.tickets >= one.tickets
        assert strictest.hours >= one.hours
        assert strictest.approvals >= one.approvals
        assert strictest.mfa >= one.mfa
        assert not one.reviewers or (strictest.reviewers and strictest.reviewers <= one.reviewers)
        assert one.max_duration is None or (strictest.max_duration or timedelta.max) <= one.max_duration
    if strictest is None:
        assert not frozenset.intersection(*(one.reviewers for one in each if one.reviewers))


ASKING = 'permit (principal in Group::"contractors", action == Action::"request", resource);'


def test_a_permit_says_what_it_asks_of_a_request(catalogue: Catalogue) -> None:
    text = f"""{TEMPLATE}
        @id("a") @reason("required, 20") @ticket("[A-Z]+-[0-9]+") @hours("Mon-Fri 08:00-18:00 Europe/Berlin") {ASKING}
        @id("b") @reason("required") @ticket("OPS-[0-9]+") {ASKING}"""
    ruling = CedarPolicies(text, catalogue).may(Power.REQUEST, CARLA, None, NOW, target=WEB)
    assert isinstance(ruling, Permitted)
    assert ruling.demands == Demands(
        min_reason=20,
        tickets=frozenset({TicketPattern("[A-Z]+-[0-9]+"), TicketPattern("OPS-[0-9]+")}),
        hours=frozenset({Hours.parse("Mon-Fri 08:00-18:00 Europe/Berlin")}),
    )


def test_a_policy_answers_by_itself_only_when_every_permit_says_so(catalogue: Catalogue) -> None:
    auto = f'{TEMPLATE} @id("a") @auto("true") {ASKING}'
    for text, automatic in ((auto, True), (f'{auto} @id("b") @approvals("1") {ASKING}', False)):
        ruling = CedarPolicies(text, catalogue).may(Power.REQUEST, CARLA, None, NOW, target=WEB)
        assert isinstance(ruling, Permitted)
        assert ruling.demands.automatic is automatic


@pytest.mark.parametrize(
    ("annotation", "sentence"),
    [
        ('@auto("false")', '@auto("false") must be @auto("true"), or be left out'),
        ('@auto("true") @approvals("1")', "@approvals(…) has no effect beside @auto: nobody is asked"),
        ('@reason("201")', '@reason("201"): must be "required"'),
        ('@reason("required, 999")', '@reason("required, 999"): must be "required"'),
        ('@ticket("(a+)+")', "is not a ticket pattern"),
        ('@ticket("a*a*a*a*")', "repeats more than 3 parts"),
        ('@hours("Mon-Fri 18:00-08:00 Europe/Berlin")', "are not hours of one day"),
        ('@hours("Mon-Fri 08:00-18:00 Europe/Berln")', "there is no time zone 'Europe/Berln'"),
    ],
    ids=lambda value: value[:24],
)
def test_a_demand_that_cannot_be_read_is_a_mistake(catalogue: Catalogue, annotation: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CedarPolicies(f'{TEMPLATE} @id("a") {annotation} {ASKING}', catalogue)
    assert sentence in str(caught.value)


LIMITING = (
    POLICY
    + """@id("uploads") @paths("/srv/upload/**, /tmp/x") @max_file_size("100MiB")
permit (principal in Group::"contractors", action == Action::"ssh:sftp_write", resource in Environment::"staging");
@id("files") @paths("/srv/") @max_file_size("1GiB")
permit (principal, action in [Action::"ssh:sftp_read", Action::"ssh:sftp_write"], resource);
"""
)


def test_a_permit_limits_the_files_of_what_a_grant_opens(catalogue: Catalogue) -> None:
    srv, uploads = Paths(frozenset({"/srv/"})), Paths(frozenset({"/srv/upload/", "/tmp/x"}))

    def limits(access: Access) -> Limits:
        ruling = ask(LIMITING, access)
        assert isinstance(ruling, Permitted)
        return ruling.limits

    assert limits(wish(action=Action.SSH_SFTP_WRITE)) == Limits(frozenset({srv, uploads}), 100 << 20)
    assert limits(wish(action=Action.SSH_SFTP_READ)) == Limits(frozenset({srv}), 1 << 30)
    assert limits(wish(target=LIVE, action=Action.SSH_SFTP_WRITE)) == Limits(frozenset({srv}), 1 << 30)
    assert limits(wish(action=Action.SSH_EXEC)) == Limits()


def test_a_permit_that_limits_files_opens_none() -> None:
    access = wish(action=Action.SSH_SFTP_READ)
    other = replace(grant_for(access), actions=frozenset({Action.SSH_SHELL}))
    assert isinstance(CedarPolicies(LIMITING, make_catalogue()).may_connect(access, other, NOW), NotPermitted)


@pytest.mark.parametrize(
    ("action", "annotation", "sentence"),
    [
        ('== Action::"ssh:sftp_read"', '@paths("srv/")', "'srv/' is not a path"),
        ('== Action::"ssh:sftp_read"', '@paths("/srv/,")', "'' is not a path"),
        ('== Action::"ssh:sftp_read"', '@paths("/")', "is no limit"),
        ('== Action::"ssh:sftp_read"', '@max_file_size("100MB")', "as in 100MiB"),
        ('== Action::"ssh:sftp_read"', '@max_size("1MiB")', "did you mean @max_file_size?"),
        ('== Action::"ssh:shell"', '@paths("/srv/")', "read on permits of ssh:sftp_read and ssh:sftp_write only"),
        ('in Action::"connect"', '@paths("/srv/")', "read on permits of ssh:sftp_read and ssh:sftp_write only"),
        ('in [Action::"ssh:sftp_read", Action::"ssh:exec"]', '@max_file_size("1MiB")', "no effect here"),
        ('== Action::"request"', '@paths("/srv/")', "no effect here"),
    ],
)
def test_a_limit_that_would_limit_nothing_is_a_mistake(
    catalogue: Catalogue, action: str, annotation: str, sentence: str
) -> None:
    text = f'{TEMPLATE}@id("files")\n{annotation}\npermit (principal, action {action}, resource);'
    with pytest.raises(ConfigError) as refused:
        CedarPolicies(text, catalogue)
    assert sentence in str(refused.value)
    forbid = f'{TEMPLATE}@id("files") @paths("/srv/") forbid (principal, action == Action::"ssh:sftp_read", resource);'
    with pytest.raises(ConfigError):
        CedarPolicies(forbid, catalogue)


KEEPING = (
    POLICY
    + """@id("keep-production") @record("everything")
permit (principal, action in [Action::"ssh:shell", Action::"ssh:exec"], resource in Environment::"production");
"""
)


def test_a_permit_wants_everything_recorded_of_whom_it_names(catalogue: Catalogue) -> None:
    def keeps(access: Access) -> bool:
        ruling = ask(KEEPING, access)
        assert isinstance(ruling, Permitted)
        return ruling.keeps_everything

    assert keeps(wish(target=LIVE, action=Action.SSH_EXEC))
    assert not keeps(wish(action=Action.SSH_EXEC))
    assert not keeps(wish(target=LIVE, action=Action.SSH_SFTP_READ))


@pytest.mark.parametrize(
    ("action", "annotation", "sentence"),
    [
        ('== Action::"ssh:exec"', '@record("full")', 'must be @record("everything")'),
        ('== Action::"ssh:sftp_read"', '@record("everything")', "read on permits of ssh:exec and ssh:shell only"),
        ('in Action::"connect"', '@record("everything")', "read on permits of ssh:exec and ssh:shell only"),
        ('== Action::"request"', '@record("everything")', "no effect here"),
    ],
)
def test_a_wish_for_recording_that_nobody_reads_is_a_mistake(
    catalogue: Catalogue, action: str, annotation: str, sentence: str
) -> None:
    text = f'{TEMPLATE}@id("keep")\n{annotation}\npermit (principal, action {action}, resource);'
    with pytest.raises(ConfigError) as refused:
        CedarPolicies(text, catalogue)
    assert sentence in str(refused.value)


def test_a_break_glass_is_never_automatic(catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match="has no effect on break_glass"):
        CedarPolicies(f'{TEMPLATE} @id("a") @auto("true") permit (principal, action, resource);', catalogue)


# --------------------------------------------------------------------------------------------------------- mistakes

# What is replaced in the example (once), by what, and every problem that is then told.
MISTAKES: dict[str, tuple[str, str, list[str]]] = {
    "misspelled word": (
        "forbid (principal,",
        "forbd (principal,",
        ["25: invalid policy effect: forbd, in the policy that begins on line 24"],
    ),
    "missing semicolon": (
        '{ resource.tier == "nonproduction" };',
        '{ resource.tier == "nonproduction" }',
        ["11: unexpected token `@`, in the policy that begins on line 4"],
    ),
    "misspelled action": (
        'Action::"review"',
        'Action::"reviev"',
        ['18: unrecognized action `Action::"reviev"`; did you mean review?'],
    ),
    "misspelled entity type": (
        'Group::"auditors"',
        'Grop::"auditors"',
        ["29: unrecognized entity type `Grop`; did you mean Group?"],
    ),
    "misspelled attribute": (
        "resource.login",
        "resource.logn",
        ["26: attribute `logn` not found in Login; did you mean login?"],
    ),
    "attribute that some resources lack": (
        "resource.tier",
        "resource.login",
        ["9: attribute `login` not found in Scope, Target"],
    ),
    "attribute that may be absent": (
        '{ resource.login == "root" }',
        '{ context.country == "DE" }',
        ["26: attribute `country` may be absent; ask first: context has country && …"],
    ),
    "misspelled attribute of the context": (
        '{ resource.login == "root" }',
        "{ context.mfaa }",
        [
            "26: attribute `mfaa` not found in the context of ssh:agent, the context of ssh:exec, the context of "
            "ssh:forward, the context of ssh:forward_loopback, the context of ssh:forward_remote, the context of "
            "ssh:forward_remote_socket, the context of ssh:forward_socket, the context of ssh:sftp_read, "
            "the context of ssh:sftp_write, the context of ssh:shell; did you mean mfa?"
        ],
    ),
    "misspelled attribute that is asked for": (
        '{ resource.login == "root" }',
        '{ context has contry && context.contry == "DE" }',
        ["26: nothing has an attribute contry; did you mean country?"],
    ),
    "misspelled environment": (
        'resource in Environment::"production")\nwhen',
        'resource in Environment::"prodution")\nwhen',
        ['25: there is no Environment::"prodution"; did you mean production?'],
    ),
    "misspelled tier": (
        '"nonproduction" }',
        '"nonprodution" }',
        ['9: there is no tier "nonprodution"; did you mean nonproduction?'],
    ),
    "misspelled target": (
        'resource.login == "root"',
        'resource in Target::"web-1.stagin.eu"',
        ['26: there is no Target::"web-1.stagin.eu"; did you mean web-1.staging.eu?'],
    ),
    "types that cannot be compared": (
        'resource.login == "root"',
        "resource.login == 3",
        ["24: the types Long and String are not compatible"],
    ),
    "no name": ('@id("sre-review")\n', "", ['17: this policy has no name; begin it with @id("what-it-does")']),
    "name of a grant": (
        '@id("sre-review")',
        '@id("g-1:web-1.staging.eu/deploy")',
        ['17: @id("g-1:web-1.staging.eu/deploy") must be lower-case letters, digits and hyphens, at most 64'],
    ),
    "the same name twice": (
        '@id("sre-review")',
        '@id("auditors-replay")',
        ['28: @id("auditors-replay") is the name of the policy on line 17 already'],
    ),
    "misspelled annotation": (
        '@approvals("2")',
        '@aprovals("2")',
        ["12: @aprovals(…) is not a known annotation; did you mean @approvals?"],
    ),
    "annotation that nobody reads": (
        '@id("sre-review")',
        '@id("sre-review") @mfa("required")',
        ["17: @mfa(…) has no effect here; it is read on permits of request, cross and break_glass only"],
    ),
    "no approvals": (
        '@approvals("2")',
        '@approvals("0")',
        ['12: @approvals("0") must be a number from 1 to 9'],
    ),
    "approvals in words": (
        '@approvals("2")',
        '@approvals("two")',
        ['12: @approvals("two") must be a number from 1 to 9'],
    ),
    "no reviewers": (
        '@reviewers("sre")\n@max_duration("2h")',
        '@reviewers("")\n@max_duration("2h")',
        ['13: @reviewers(""): must be names of groups with commas between them'],
    ),
    "no duration": (
        '@max_duration("8h")',
        '@max_duration("soon")',
        ["7: @max_duration(\"soon\"): 'soon' is not a duration. Write it like 2h, 90m or 1h30m."],
    ),
    "mfa perhaps": (
        '@approvals("2")',
        '@mfa("perhaps")',
        ['12: @mfa("perhaps") must be @mfa("required"), or be left out'],
    ),
    "acr that cannot be asked for": (
        '{ resource.login == "root" }',
        '{ context has acr && context.acr == "phishing resistant" }',
        ['26: "phishing resistant" is no acr that could be asked for'],
    ),
    "acr that may be absent": (
        '{ resource.login == "root" }',
        '{ context.acr == "urn:example:phr" }',
        ["26: attribute `acr` may be absent; ask first: context has acr && …"],
    ),
    "misspelled amr": (
        'context.amr.contains("hwk")',
        'context.amr.containsAll(["pwd", "HKW"])',
        ['51: there is no amr "HKW"; did you mean "hwk"?'],
    ),
    "several amr in one": (
        'context.amr.contains("hwk")',
        'context.amr.contains("hwk,pin")',
        ['51: "hwk,pin" is no amr that could be asked for'],
    ),
    "two mistakes": (
        '@approvals("2")\n@reviewers("sre")\n@max_duration("2h")\npermit (principal in Group::"contractors"',
        '@approvals("x")\n@reviewers("sre")\n@max_duration("2h")\nforbid (principal in Grop::"contractors"',
        ["15: unrecognized entity type `Grop`; did you mean Group?"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_policy_file_with_a_mistake_is_refused_with_its_line(catalogue: Catalogue, mistake: str) -> None:
    old, new, expected = MISTAKES[mistake]
    assert POLICY.count(old) == 1
    with pytest.raises(ConfigError) as caught:
        CedarPolicies(POLICY.replace(old, new), catalogue, source="policy.cedar")
    assert caught.value.problems == [f"policy.cedar:{problem}" for problem in expected]


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("", id="none"),
        pytest.param(TEMPLATE.replace("== ?principal", ""), id="anybody"),
        pytest.param(TEMPLATE.replace("principal == ?principal", "principal in ?principal"), id="groups"),
        pytest.param(TEMPLATE.replace("resource == ?resource", "resource in ?resource"), id="whole targets"),
        pytest.param(TEMPLATE.replace('action in Action::"connect"', "action"), id="every action"),
        pytest.param(TEMPLATE.replace("permit", "forbid"), id="a forbid"),
        pytest.param(TEMPLATE.replace("connect-with-grant", "connect"), id="another name"),
        pytest.param(TEMPLATE + TEMPLATE.replace("-grant", "-grants"), id="a second one"),
    ],
)
def test_the_template_of_grants_is_exactly_the_one_there_is(catalogue: Catalogue, template: str) -> None:
    with pytest.raises(ConfigError, match="template"):
        CedarPolicies(template, catalogue)


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param("(" * 20_000 + "true" + ")" * 20_000, id="brackets"),
        pytest.param("[" * 20_000 + "1" + "]" * 20_000 + " == 1", id="sets"),
        pytest.param(" && ".join(["true"] * 20_000), id="and"),
        pytest.param("+".join(["1"] * 20_000) + " > 0", id="plus"),
        pytest.param("context" + ".a" * 20_000, id="attributes"),
        pytest.param("if true then true else " * 20_000 + "true", id="if"),
        pytest.param('"\\"" == "' + '" && ("' * 20_000, id="strings that do not end"),
    ],
)
def test_a_policy_that_would_end_the_process_is_refused_before_it_is_parsed(
    catalogue: Catalogue, condition: str
) -> None:
    """The engine overflows its stack, which nothing survives: a reload must not do that to live sessions."""
    text = TEMPLATE + f'@id("deep") permit (principal, action, resource) when {{ {condition} }};'
    with pytest.raises(ConfigError) as caught:
        CedarPolicies(text, catalogue)
    assert caught.value.problems[0].startswith("policy.cedar:3: ")


def test_mistakes_in_several_policies_are_told_at_once(catalogue: Catalogue) -> None:
    text = POLICY.replace('Group::"sre"', 'Grop::"sre"').replace('@approvals("1")', '@approvals("x")')
    with pytest.raises(ConfigError) as caught:
        CedarPolicies(text, catalogue)
    assert [problem.split(":")[1] for problem in caught.value.problems] == ["5", "18", "32"]


def test_syntax_mistakes_in_several_policies_are_told_at_once(catalogue: Catalogue) -> None:
    text = POLICY.replace("forbid (principal,", "forbid (,").replace("?principal", "?somebody")
    with pytest.raises(ConfigError) as caught:
        CedarPolicies(text, catalogue)
    assert [problem.split(":")[1] for problem in caught.value.problems] == ["22", "25"]


def test_the_printed_schema_is_one_that_the_engine_reads() -> None:
    cedarpy.Schema.from_str(schema_text())


def test_policies_are_found_whatever_stands_in_strings_and_comments() -> None:
    text = '// a; comment\n@id("a;b") permit\n  // more;\n (principal); @id("\\";")\n\nforbid ( "//;" );\n unfinished'
    assert [(s.line, s.text.split()[0]) for s in split(text)] == [
        (2, '@id("a;b")'),
        (4, '@id("\\";")'),
        (7, "unfinished"),
    ]


@given(st.text(alphabet='permit(), ;"/\\\n@id?=xé', max_size=80))
def test_whatever_the_text_it_is_read_or_refused_with_a_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:  # none of it can have the template
        CedarPolicies(text, make_catalogue())
    assert all(problem.startswith("policy.cedar:") for problem in caught.value.problems)


# ------------------------------------------------------------------------------------------------------------ step-up


SHORT_LIVED = (
    TEMPLATE
    + """
@id("fresh-and-strong") forbid (principal, action in Action::"connect", resource)
when { !context.mfa || context.authenticated_age > duration("10m") };
"""
)


@pytest.mark.parametrize(
    ("mfa", "logged_in", "remedy"),
    [
        (False, timedelta(), Remedy.MFA),
        (True, timedelta(minutes=11), Remedy.MFA),
        (False, timedelta(hours=1), Remedy.MFA),
        (True, timedelta(minutes=9), None),
    ],
    ids=["no second factor", "too long ago", "neither", "strong and fresh"],
)
def test_what_only_lacks_a_fresh_or_strong_login_is_told_the_least_that_would_do(
    mfa: bool, logged_in: timedelta, remedy: Remedy | None
) -> None:
    ruling = ask(SHORT_LIVED, wish(somebody("contractors", mfa=mfa, logged_in=logged_in)))
    if remedy is None:
        assert isinstance(ruling, Permitted)
    else:
        assert ruling == NotPermitted(("Forbidden by policy fresh-and-strong.", remedy.sentence), remedy)


def test_what_a_step_up_would_not_open_does_not_ask_for_one() -> None:
    both = (
        SHORT_LIVED
        + '@id("no-root") forbid (principal, action in Action::"connect", resource) when { resource.login == "root" };'
    )
    ruling = ask(both, wish(login="root"))
    assert isinstance(ruling, NotPermitted)
    assert ruling.remedy is None
    assert not any("bastion login" in reason for reason in ruling.reasons)


PHR = "urn:example:phr"
NAMED = (
    TEMPLATE
    + """
@id("kind") forbid (principal, action == Action::"ssh:shell", resource)
unless { context has acr && ["urn:example:phr", "urn:example:phrh"].contains(context.acr) };
@id("key") forbid (principal, action == Action::"ssh:exec", resource) unless { context.amr.contains("hwk") };
@id("all") forbid (principal, action == Action::"ssh:agent", resource)
unless {
  context.mfa && context.amr.containsAll(["hwk", "pin"]) && context has acr && context.acr == "urn:example:phr"
};
@id("any") forbid (principal, action == Action::"ssh:forward", resource)
unless { context.amr.containsAny(["sc", "face"]) };
"""
)


@pytest.mark.parametrize(
    ("action", "remedy", "wrong"),
    [
        (Action.SSH_SHELL, Remedy(PHR), Strength(NOW, frozenset({"mfa"}), "urn:example:mfa")),
        (Action.SSH_EXEC, Remedy(amr=frozenset({"hwk"})), Strength(NOW, frozenset({"mfa", "otp"}), PHR)),
        (
            Action.SSH_AGENT,
            Remedy(PHR, frozenset({"hwk", "pin", "mfa"})),
            Strength(NOW, frozenset({"hwk", "pin"}), "urn:example:pwd"),
        ),
        (Action.SSH_FORWARD, Remedy(amr=frozenset({"face"})), Strength(NOW, frozenset({"hwk"}))),
    ],
    ids=["acr", "amr", "all at once", "any of two"],
)
def test_a_policy_that_names_a_login_is_content_with_that_alone_and_says_which(
    action: Action, remedy: Remedy, wrong: Strength
) -> None:
    policies = CedarPolicies(NAMED, make_catalogue())

    def asked(identity: Identity) -> Ruling:
        access = wish(identity, action=action)
        return policies.may_connect(access, replace(grant_for(access), actions=frozenset(Action)), NOW)

    for identity in (CARLA, CARLA.proven_by(wrong)):
        ruling = asked(identity)
        assert isinstance(ruling, NotPermitted)
        assert ruling.reasons[-1] == remedy.sentence
        assert ruling.remedy == remedy
    assert isinstance(asked(CARLA.proven_by(Strength(NOW, remedy.amr, remedy.acr))), Permitted)


def test_only_so_many_kinds_of_login_are_tried() -> None:
    many = " || ".join(f'context.amr.contains("m{n}") || context has acr && context.acr == "a{n}"' for n in range(20))
    policies = CedarPolicies(TEMPLATE + f'@id("many") forbid (principal, action, resource) unless {{ {many} }};',
                             make_catalogue())  # fmt: skip
    ruling = policies.may_connect(wish(), grant_for(wish()), NOW)
    assert isinstance(ruling, NotPermitted)
    assert ruling.remedy == Remedy(amr=frozenset({"m0"}))


def test_a_request_that_only_lacks_a_second_factor_is_told_so(catalogue: Catalogue) -> None:
    text = TEMPLATE + '@id("a") permit (principal, action == Action::"request", resource) when { context.mfa };'
    ruling = CedarPolicies(text, catalogue).may(Power.REQUEST, CARLA, BERLIN, NOW, target=WEB, login="deploy")
    assert isinstance(ruling, NotPermitted)
    assert (ruling.reasons[-1], ruling.remedy) == (Remedy.MFA.sentence, Remedy.MFA)


def test_what_is_kept_of_a_question_answers_no_other_question() -> None:
    """Linked grants and entities are kept; another identity, grant, target or moment is another question."""
    policies = CedarPolicies(
        TEMPLATE + '@id("no-guests") forbid (principal in Group::"guests", action, resource);', make_catalogue()
    )
    access = wish()
    grant = grant_for(access)
    for _ in range(2):
        assert policies.may_connect(access, grant, NOW) == Permitted(("g-1:web-1.staging.eu/deploy",))
        assert policies.may_connect(wish(somebody("contractors", "guests")), grant, NOW) == NotPermitted(
            ("Forbidden by policy no-guests.",)
        )
        assert policies.may_connect(wish(login="root"), grant, NOW) == NotPermitted(
            ("Grant g-1 is for the login deploy, not root.",)
        )
        root = replace(grant, id="g-2", logins=LOGINS)
        assert policies.may_connect(wish(login="root"), root, NOW) == Permitted(("g-2:web-1.staging.eu/root",))
        assert isinstance(policies.may_connect(access, grant, grant.ends_at), NotPermitted)


@pytest.mark.parametrize(
    "condition",
    ["context.hour >= 10", 'context["hour"] >= 10', r'context["h\u{6f}ur"] >= 10', r'context["h\x6fur"] >= 10'],
)
def test_a_ruling_that_speaks_of_the_moment_is_made_at_each(condition: str) -> None:
    """However it is written; the others are kept."""
    text = TEMPLATE + f'@id("late") forbid (principal, action, resource) when {{ {condition} }};'
    policies = CedarPolicies(text, make_catalogue())
    access = wish()
    grant = grant_for(access)
    assert policies.may_connect(access, grant, NOW) == Permitted(("g-1:web-1.staging.eu/deploy",))
    assert policies.may_connect(access, grant, NOW + timedelta(minutes=45)) == NotPermitted(
        ("Forbidden by policy late.",)
    )


def test_a_kept_ruling_is_another_for_another_place_or_login() -> None:
    text = TEMPLATE + (
        '@id("brazil") forbid (principal, action, resource) when { context has country && context.country == "BR" };'
        '@id("mfa") forbid (principal, action, resource == Login::"web-1.staging.eu/root") unless { context.mfa };'
    )
    policies = CedarPolicies(text, make_catalogue())
    for _ in range(2):
        here, there = wish(), wish(place=replace(BERLIN, country="BR"))
        assert isinstance(policies.may_connect(here, grant_for(here), NOW), Permitted)
        assert isinstance(policies.may_connect(there, grant_for(there), NOW), NotPermitted)
        weak, strong = wish(login="root"), wish(somebody("contractors", mfa=True), login="root")
        assert isinstance(policies.may_connect(weak, grant_for(weak), NOW), NotPermitted)
        assert isinstance(policies.may_connect(strong, grant_for(strong), NOW), Permitted)
