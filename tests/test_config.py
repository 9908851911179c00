"""The configuration is read strictly, every mistake is one sentence with its line, and no secret is ever shown."""

from __future__ import annotations

import json
import os
import re
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bastion.cli.check import schema_json
from bastion.config import HostPort, Settings, load, values, yaml
from bastion.config.countries import COUNTRIES
from bastion.config.secret import CredentialSecret, EnvSecret, FileSecret, parse_secret
from bastion.core.algorithms import LEGACY
from bastion.core.errors import ConfigError
from bastion.core.target import Scope
from tests.site import EXAMPLE, Site, install

ANOTHER_ISSUER = "  - {issuer: https://login.example.com, client_id: second}\n\nworkloads:"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return install(tmp_path)


def problems(site: Site) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(site.config)
    return caught.value.problems


# ------------------------------------------------------------------------------------------------------ the example


def test_the_example_loads_and_says_what_its_comments_say(site: Site) -> None:
    settings = load(site.config)
    assert settings.node == "bastion-1"
    assert settings.public_url == "https://bastion.example.com"
    assert (settings.listen.ssh, settings.listen.http) == (HostPort("0.0.0.0", 2222), HostPort("0.0.0.0", 8443))
    assert settings.tls is not None
    assert settings.tls.key.path == site.key
    assert settings.store.url.reveal() == "sqlite"
    assert settings.coordination.url.reveal() == "memory"
    assert settings.issuers[0].client_secret is not None
    assert settings.issuers[0].client_secret.reveal() == "the oidc-secret"
    assert settings.issuers[0].claims.mapping().groups == "groups"
    assert settings.geo.max_age == timedelta(days=45)
    assert settings.geo.networks[ip_network("10.30.0.0/16")] == "NO"
    assert settings.certificates.lifetime == timedelta(minutes=10)
    assert settings.policy == site.policy
    assert settings.base == site.folder
    assert settings.chat.slack is not None
    assert settings.chat.slack.workspaces == ("T012AB3CD",)


def test_the_catalogue_has_the_tiers_fences_and_targets_of_the_file(site: Site) -> None:
    catalogue = load(site.config).catalogue()
    assert catalogue.tier_of(Scope("staging", "eu")) == catalogue.tier_of(Scope("dev", "eu")) == "nonproduction"
    assert catalogue.tier_of(Scope("production", "eu")) == "production"
    assert catalogue.regions["eu"].fence.countries == {"DE", "FR", "NL", "NO"}
    assert sorted(catalogue.targets) == ["web-1.production.eu", "web-1.staging.eu"]
    assert catalogue.targets["web-1.staging.eu"].host_keys == (KEY,)


def test_a_target_may_be_behind_another_which_may_be_behind_a_third(site: Site) -> None:
    one = "  - {{name: {0}, environment: production, region: eu, host: {0}, logins: [tunnel], host_ca: {1}{2}}}\n"
    site.edit("    # via: tunnel@jump-1 ", "    via: tunnel@jump-1 ")
    site.edit(
        "\npolicy: policy.cedar",
        one.format("jump-1", KEY, ", via: tunnel@jump-2.production.eu")
        + one.format("jump-2", KEY, "")
        + "\npolicy: policy.cedar",
    )
    web = load(site.config).catalogue().targets["web-1.production.eu"]
    assert web.via is not None
    assert (web.via.login, web.via.target.name) == ("tunnel", "jump-1")
    assert web.via.target.via is not None
    assert web.via.target.via.target.host == "jump-2"


def test_every_setting_is_shown_in_the_example() -> None:
    text = (EXAMPLE / "bastion.yaml").read_text()

    def keys(schema: object) -> set[str]:
        match schema:
            case {"properties": dict(properties), "title": str(), **rest}:
                return set(properties) | keys(list(properties.values())) | keys(rest)
            case dict():
                return keys(list(schema.values()))
            case list():
                return {key for part in schema for key in keys(part)}
            case _:
                return set()

    shown = {key for key in keys(json.loads(schema_json())) if re.search(rf"\b{key}:", text)}
    assert keys(json.loads(schema_json())) - shown == set()


def test_the_exported_json_schema_is_that_of_the_settings() -> None:
    stored = (EXAMPLE / "bastion.schema.json").read_text()
    assert stored == schema_json(), "run: bastion check --schema > config/bastion.schema.json"


def test_settings_do_not_change(site: Site) -> None:
    settings = load(site.config)
    with pytest.raises(ValidationError):
        settings.node = "another"


def test_a_file_for_another_machine_is_checked_without_its_secrets(site: Site) -> None:
    site.key.unlink()
    assert load(site.config, here=False).node == "bastion-1"
    assert len(problems(site)) == 1


# --------------------------------------------------------------------------------------------------------- mistakes

# What is replaced, by what, a part of the (last) line that is then named, and the sentence with its path.
MISTAKES = {
    "unknown key": (
        "    port: 22\n    logins: [deploy, admin]",
        "    prot: 22\n    logins: [deploy, admin]",
        "    prot:",
        "targets[0].prot: is not a known key; did you mean port?",
    ),
    "unknown key at the top": (
        "node: bastion-1",
        "node: bastion-1\nnodes: 3",
        "nodes:",
        "nodes: is not a known key; did you mean node?",
    ),
    "missing key": (
        "node: bastion-1  ",
        "# none",
        "# The one",
        "node: is missing",
    ),
    "wrong type": (
        "    port: 22\n    logins: [deploy, admin]",
        '    port: "22"\n    logins: [deploy, admin]',
        'port: "22"',
        "targets[0].port: must be a number from 1 to 65535",
    ),
    "port out of range": (
        "    port: 22\n    logins: [deploy, admin]",
        "    port: 65536\n    logins: [deploy, admin]",
        "65536",
        "targets[0].port: must be a number from 1 to 65535",
    ),
    "number for text": (
        "client_id: bastion",
        "client_id: 17",
        "17",
        'issuers[0].client_id: must be text, not a number: write "17" with quotes',
    ),
    "boolean for text": (
        "client_id: bastion",
        "client_id: true",
        "client_id: true",
        "issuers[0].client_id: must be text",
    ),
    "text for a list": (
        "logins: [deploy, admin]",
        "logins: deploy",
        "logins: deploy",
        "targets[0].logins: must be a list: [a, b], or one a line with a hyphen before each",
    ),
    "list for a mapping": (
        "{countries: [US]}",
        "[US]",
        "[US]",
        "regions.us.fence: must be a mapping: lines of key: value",
    ),
    "no value": (
        "{tier: nonproduction}             #",
        "#",
        "  dev:",
        "environments.dev: must be a mapping: lines of key: value",
    ),
    "duplicate key": (
        "node: bastion-1",
        "node: bastion-2\nnode: bastion-1",
        "node: bastion-1",
        "node: is there already, on line 5",
    ),
    "duplicate target": (
        "environment: production\n",
        "environment: staging\n",
        "- name: web-1",
        "targets[1].name: web-1.staging.eu is there already, as targets[0]",
    ),
    "region without a fence": (
        "    fence: {countries: [US]}",
        "    {}",
        "  us:",
        "regions.us.fence: is missing: nobody could reach us; say from where, fence: {countries: [DE]}",
    ),
    "empty fence": (
        "{countries: [US]}",
        "{}",
        "fence: {}",
        "regions.us.fence: is empty, and an empty fence holds nobody: name countries or networks",
    ),
    "unknown region": (
        "region: eu\n    host: web-1.prod.internal",
        "region: ue\n    host: web-1.prod.internal",
        "region: ue",
        "targets[1].region: there is no region ue",
    ),
    "unknown environment": (
        "environment: production\n",
        "environment: prodution\n",
        "prodution",
        "targets[1].environment: there is no environment prodution; did you mean production?",
    ),
    "target that cannot prove itself": (
        f"    host_ca: {KEY}\n",
        "",
        "- name: web-1",
        "targets[1]: web-1.production.eu needs host_keys or host_ca: a host that cannot prove itself is no target",
    ),
    "forward without a port": (
        "10.20.0.0/16:443]",
        "10.20.0.0/16]",
        "    forward: [",
        (
            "targets[1].forward[1]: '10.20.0.0/16' must be a host or a network and its ports, such as "
            "db.internal:5432 or 10.20.0.0/16:443"
        ),
    ),
    "forward to the loopback": (
        "10.20.0.0/16:443]",
        "127.0.0.1:443]",
        "    forward: [",
        (
            "targets[1].forward[1]: '127.0.0.1:443' is the target's own loopback, for which a grant has "
            "ssh:forward_loopback"
        ),
    ),
    "forward to metadata": (
        "10.20.0.0/16:443]",
        "169.254.169.254:80]",
        "    forward: [",
        "targets[1].forward[1]: 169.254.169.254:80 is off limits to every forward",
    ),
    "variable that a loader obeys": (
        "[LANG, LC_*, COLORTERM]",
        "[LANG, LD_PRELOAD]",
        "    env: [",
        "targets[1].env[1]: 'LD_PRELOAD' would let a client say which code programs load: LD_*",
    ),
    "every variable": (
        "[LANG, LC_*, COLORTERM]",
        '["L*"]',
        "    env: [",
        "targets[1].env[0]: 'L*' would let a client say which code programs load: LD_*",
    ),
    "host key of half a line": (
        f"      - {KEY}",
        f"      - {KEY[:-3]}",
        "      - ssh-ed25519",
        (
            "targets[0].host_keys[0]: must be a public key line of OpenSSH, such as ssh-ed25519 AAAA…, without "
            "the host's name before it"
        ),
    ),
    "host key with a host's name": (
        f"      - {KEY}",
        f"      - web-1 {KEY}",
        "- web-1 ssh",
        (
            "targets[0].host_keys[0]: must be a public key line of OpenSSH, such as ssh-ed25519 AAAA…, without "
            "the host's name before it"
        ),
    ),
    "host CA of known_hosts": (
        f"host_ca: {KEY}",
        f'host_ca: "@cert-authority * {KEY}"',
        "@cert",
        (
            "targets[1].host_ca: must be a public key line of OpenSSH, such as ssh-ed25519 AAAA…; not a "
            "certificate and not a line of known_hosts"
        ),
    ),
    "country that is none": (
        "countries: [US]",
        "countries: [UK]",
        "[UK]",
        (
            "regions.us.fence.countries[0]: 'UK' is not a country; use its two letters of ISO 3166-1, such as "
            "DE (the United Kingdom is GB)"
        ),
    ),
    "country in lower case": (
        "countries: [US]",
        "countries: [us]",
        "[us]",
        "regions.us.fence.countries[0]: 'us' must be written in upper case: US",
    ),
    "country that YAML 1.1 took for false": (
        "countries: [US]",
        "countries: [false]",
        "[false]",
        "regions.us.fence.countries[0]: must be text",
    ),
    "network with too many bits": (
        "networks: [10.20.0.0/16]",
        "networks: [10.20.0.1/16]",
        "10.20.0.1/16",
        "regions.eu.fence.networks[0]: '10.20.0.1/16' has bits beyond its length; did you mean 10.20.0.0/16?",
    ),
    "the same network twice": (
        "    10.20.0.0/16: DE",
        "    fd00::/8: DE\n    FD00:0::/8: SE\n    10.20.0.0/16: DE",
        "FD00",
        'geo.networks["FD00:0::/8"]: is the same network as fd00::/8',
    ),
    "login with a space": (
        "logins: [deploy, admin]",
        "logins: [deploy, the admin]",
        "the admin",
        "targets[0].logins[1]: 'the admin' must be a login name: lower-case letters, digits, _ and -, at most 32",
    ),
    "no login": (
        "logins: [deploy, admin]",
        "logins: []",
        "logins: []",
        "targets[0].logins: must name at least one login: empty means nobody",
    ),
    "certificates for a day": (
        "lifetime: 10m",
        "lifetime: 1d",
        "lifetime: 1d",
        "certificates.lifetime: 1d must be from 1m to 1h",
    ),
    "certificates for seconds": (
        "lifetime: 10m",
        "lifetime: 59s",
        "59s",
        "certificates.lifetime: 59s must be from 1m to 1h",
    ),
    "public URL in clear": (
        "public_url: https:",
        "public_url: http:",
        "public_url: http",
        "public_url: must begin with https://, because bastion.example.com is not this machine itself",
    ),
    "public URL with a path": (
        "public_url: https://bastion.example.com ",
        "public_url: https://bastion.example.com/access ",
        "public_url: http",
        "public_url: must not have a path: write https://bastion.example.com",
    ),
    "issuer in clear": (
        "issuer: https://login.example.com",
        "issuer: http://login.example.com",
        "http://login",
        "issuers[0].issuer: must begin with https://, because login.example.com is not this machine itself",
    ),
    "the same issuer twice": (
        "\nworkloads:",
        ANOTHER_ISSUER,
        "second",
        "issuers[1].issuer: https://login.example.com is there already, as issuers[0]",
    ),
    "scopes without openid": (
        "[openid, email,",
        "[email,",
        "[email,",
        "issuers[0].scopes: must have openid in it (OpenID Connect Core 1.0, section 3.1.2.1)",
    ),
    "address without a port": (
        "ssh: 0.0.0.0:2222",
        "ssh: 0.0.0.0",
        "ssh: 0.0.0.0",
        "listen.ssh: '0.0.0.0' must be an address and a port, such as 0.0.0.0:2222 or [::]:2222",
    ),
    "two listeners on one port": (
        "http: 0.0.0.0:8443",
        "http: 0.0.0.0:2222",
        "http: 0.0.0.0:2222",
        "listen.http: 0.0.0.0:2222 is what listen.ssh has; give each its own port",
    ),
    "everybody's PROXY header": (
        "# proxy_protocol: [10.0.0.5/32] ",
        "proxy_protocol: [0.0.0.0/0] #",
        "proxy_protocol",
        "proxy_protocol[0]: 0.0.0.0/0 would believe everybody's word about where they are; list the balancers",
    ),
    "tier that joins production unseen": (
        "staging: {tier: nonproduction}",
        "staging: {tier: production}",
        "staging: {",
        (
            "environments.staging.tier: production is an environment with its own tier; to join them, give "
            "both a tier: with one name"
        ),
    ),
    "unknown store": (
        "{url: sqlite}",
        "{url: mysql://db/bastion}",
        "mysql",
        "store.url: must be sqlite, or a URL that begins with sqlite:// or postgresql://",
    ),
    "team that is none": (
        "[T012AB3CD]",
        "[acme]",
        "acme",
        "chat.slack.workspaces[0]: 'acme' must be a Slack team id, such as T012AB3CD",
    ),
    "hop that is no login and target": (
        "    # via: tunnel@jump-1 ",
        "    via: jump-1 ",
        "via: jump-1",
        "targets[1].via: 'jump-1' must be login@target, such as tunnel@jump-1.production.eu",
    ),
    "hop that is not there": (
        "    # via: tunnel@jump-1 ",
        "    via: deploy@web-2 ",
        "via: deploy@web-2",
        "targets[1].via: there is no target web-2.production.eu; did you mean web-1.production.eu?",
    ),
    "hop of another scope": (
        "    # via: tunnel@jump-1 ",
        "    via: deploy@web-1.staging.eu ",
        "via: deploy@web-1",
        "targets[1].via: web-1.staging.eu is in staging/eu: a hop is in the scope of what is behind it",
    ),
    "login that the hop has not": (
        "    # via: tunnel@jump-1 ",
        "    via: deploj@web-1 ",
        "via: deploj@web-1",
        "targets[1].via: web-1.production.eu has no login deploj; did you mean deploy?",
    ),
    "target behind itself": (
        "    # via: tunnel@jump-1 ",
        "    via: deploy@web-1 ",
        "via: deploy@web-1",
        "targets[1].via: web-1.production.eu is behind itself: web-1.production.eu → web-1.production.eu",
    ),
    "workers without anything between them": (
        "# workers: 4 ",
        "workers: 4 ",
        "workers: 4",
        "workers: needs coordination.url to be a Redis server: memory is that of one process",
    ),
    "a throttle that keeps out whoever mistypes": (
        "#   failures: 30 ",
        "#   failures: 30 \nthrottle: {failures: 1}",
        "throttle: {failures: 1}",
        "throttle.failures: must be a number from 5 to 10000",
    ),
    "too many workers": (
        "# workers: 4 ",
        "workers: 400 ",
        "workers: 400",
        "workers: must be a number from 1 to 64",
    ),
    "too few channels": (
        "# ssh_channels: 256 ",
        "ssh_channels: 7 ",
        "ssh_channels: 7",
        "ssh_channels: must be a number from 8 to 4096",
    ),
    "algorithm that no target gets": (
        "    # algorithms: [diffie-hellman-group14-sha256] ",
        "    algorithms: [aes128-cbc] ",
        "aes128-cbc",
        f"targets[1].algorithms: 'aes128-cbc' is not one that an old target can be given: {', '.join(LEGACY)}",
    ),
    "algorithm that every target gets": (
        "    # algorithms: [diffie-hellman-group14-sha256] ",
        "    algorithms: [aes128-ctr] ",
        "[aes128-ctr]",
        "targets[1].algorithms: 'aes128-ctr' is used with every target; leave it out",
    ),
    "word for algorithms": (
        "    # algorithms: [diffie-hellman-group14-sha256] ",
        "    algorithms: old ",
        "algorithms: old",
        "targets[1].algorithms: must be legacy, or a list of names such as [diffie-hellman-group14-sha256]",
    ),
    "size without a unit": (
        "{full_until: 16MiB} ",
        "{full_until: 16} ",
        "full_until: 16",
        "recordings.full_until: must be a size, such as 500KiB, 16MiB or 1GiB, or the word everything",
    ),
    "target in another's clothes": (
        "host: 10.20.1.5",
        "host: 10.20.1.500",
        "10.20.1.500",
        "targets[0].host: '10.20.1.500' must be a host name or an IP address, without port, user or scheme",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_one_sentence_with_its_line_and_path(site: Site, mistake: str) -> None:
    old, new, marked, expected = MISTAKES[mistake]
    site.edit(old, new)
    line = max(n for n, text in enumerate(site.config.read_text().splitlines(), 1) if marked in text)
    assert problems(site) == [f"bastion.yaml:{line}: {expected}"]


def test_tls_may_be_left_out_on_loopback_only(site: Site) -> None:
    text = site.config.read_text()
    without = re.sub(r"\ntls:.*\n.*\n.*\n", "\n", text)
    site.config.write_text(without)
    assert problems(site) == ["bastion.yaml:1: tls: is missing; it can be left out only when public_url is on loopback"]
    site.config.write_text(without.replace("https://bastion.example.com", "http://localhost:8443"))
    assert load(site.config).tls is None


def test_several_mistakes_are_told_at_once_in_the_order_of_the_file(site: Site) -> None:
    site.edit("environment: production\n", "environment: prodution\n")
    site.edit("lifetime: 10m", "lifetime: forever")
    site.edit("node: bastion-1", "node: Bastion 1")
    site.edit("{countries: [US]}", "{}")
    paths = [problem.split(": ")[1] for problem in problems(site)]
    assert paths == ["node", "regions.us.fence", "targets[1].environment", "certificates.lifetime"]


# ------------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", "bastion.yaml:1: is empty", id="empty"),
        pytest.param(b"# nothing but a comment\n", "bastion.yaml:1: is empty", id="comment"),
        pytest.param(b"- a\n- b\n", "bastion.yaml:1: must be a mapping: lines of key: value", id="list"),
        pytest.param(b"node: a\nx: caf\xe9\n", "bastion.yaml:2: is not UTF-8", id="latin-1"),
        pytest.param(
            b"a: [1, 2\nb: 3\n", "bastion.yaml:2: is not YAML: expected ',' or ']', but got ':'", id="unclosed"
        ),
        pytest.param(b"a: 1\n---\nb: 2\n", "bastion.yaml:2: has a second document; one file is one document", id="two"),
        pytest.param(
            b"a: !!python/object/apply:os.system [id]\n",
            "bastion.yaml:1: has the tag tag:yaml.org,2002:python/object/apply:os.system; tags are not used here",
            id="tag",
        ),
        pytest.param(b"a: " + b"x" * (1 << 20), "bastion.yaml:1: is larger than 1048576 bytes", id="large"),
    ],
)
def test_a_file_that_is_no_configuration_says_why(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "bastion.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "bastion.yaml")
    assert caught.value.problems == [expected]


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bastion.yaml: is unreadable: No such file or directory"):
        load(tmp_path / "bastion.yaml")


def test_missing_policies_are_a_mistake_in_the_configuration(site: Site) -> None:
    site.policy.unlink()
    line = site.line_of("policy: policy.cedar")
    assert problems(site) == [f"bastion.yaml:{line}: policy: {site.policy} is unreadable: No such file or directory"]


# ------------------------------------------------------------------------------------------------------------ YAML


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("NO", "NO"), ("no", "no"), ("on", "on"), ("y", "y"), ("22:22", "22:22"), ("1_000", "1_000"), ("010", 10),
        ("0o10", 8), ("0x1F", 31), ("2026-03-02", "2026-03-02"), ("1e3", 1000.0), ("true", True), ("~", None),
        ("", None), ('"7"', "7"), ("!!str 7", "7"), (".inf", ".inf"), ("9" * 30, "9" * 30), ("0b1", "0b1"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(written: str, read: object) -> None:
    assert yaml.parse(f"a: {written}\n").plain() == {"a": read}


def test_aliases_mean_what_they_name() -> None:
    assert yaml.parse("a: &x [1, 2]\nb: *x\n").plain() == {"a": [1, 2], "b": [1, 2]}


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(LAUGHS, id="a billion laughs"),
        pytest.param("a: &x [*x]\n", id="an alias of itself"),
        pytest.param("[" * 100_000, id="brackets"),
        pytest.param("- " * 100_000, id="hyphens"),
        pytest.param("<<: {a: 1}\n", id="a merge key"),
        pytest.param("%YAML 1.1\n---\na: NO\n", id="YAML 1.1"),
        pytest.param("? [a, b]\n: c\n", id="a list as a key"),
        pytest.param("a: *nothing\n", id="an alias of nothing"),
    ],
)
def test_yaml_that_is_made_to_exhaust_or_to_confuse_is_refused(text: str) -> None:
    with pytest.raises(yaml.YamlError):
        yaml.parse(text)


@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@,? \n\t0\x00\ud800é", max_size=60))
def test_whatever_the_text_it_is_read_or_refused_with_a_line(text: str) -> None:
    try:
        line = yaml.parse(text).line_of(("a", 0, "b"))
    except yaml.YamlError as error:
        line = error.line
    assert 1 <= line <= text.count("\n") + 2


# --------------------------------------------------------------------------------------------------------- secrets


def test_a_secret_that_is_written_into_the_file_is_refused_and_not_repeated(site: Site) -> None:
    site.edit(f"client_secret: {{file: {site.folder}/etc/oidc-secret}}", "client_secret: hunter2")
    (problem,) = problems(site)
    assert problem.endswith(
        "issuers[0].client_secret: is a secret, which is not written here: put it in a file of mode 0600 "
        "and write {file: /path/to/it}, {env: NAME} or {credential: name}"
    )
    assert "hunter2" not in problem


def test_a_password_in_a_url_is_refused_and_not_repeated(site: Site) -> None:
    site.edit("{url: sqlite}", "{url: 'postgresql://bastion:hunter2@db/bastion'}")
    (problem,) = problems(site)
    assert "store.url: has a password in plain: put the whole URL in a file of mode 0600" in problem
    assert "hunter2" not in problem


def test_a_url_may_come_from_a_secret(site: Site) -> None:
    secret = site.folder / "etc" / "oidc-secret"
    secret.write_text("postgresql://bastion:hunter2@db/bastion\n")
    site.edit("{url: sqlite}", f"{{url: {{file: {secret}}}}}")
    settings = load(site.config)
    assert settings.store.url.reveal() == "postgresql://bastion:hunter2@db/bastion"
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o601], ids=oct)
def test_a_key_that_others_can_read_is_refused(site: Site, mode: int) -> None:
    site.key.chmod(mode)
    assert problems(site) == [
        f"bastion.yaml:{site.line_of('key: {file')}: tls.key: {site.key} has mode {mode:04o} and others can read it: "
        f"chmod 600 {site.key}"
    ]


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, mode=0o600)


def _write_nonsense(path: Path) -> None:
    path.write_text("a key, honestly")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_remove, "{key} is unreadable: No such file or directory"),
        (_empty, "{key} is empty"),
        (_make_folder, "{key} is unreadable: Is a directory"),
        (_make_pipe, "{key} is not a file"),
        (_write_nonsense, "what it refers to is not a PEM private key without a passphrase"),
    ],
)
def test_a_key_that_cannot_be_used_is_one_problem(site: Site, spoil: object, expected: str) -> None:
    assert callable(spoil)
    spoil(site.key)
    line = site.line_of("key: {file")
    assert problems(site) == [f"bastion.yaml:{line}: tls.key: {expected.format(key=site.key)}"]


def test_a_key_of_another_certificate_is_refused(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    site.key.write_bytes(install(tmp_path_factory.mktemp("another")).key.read_bytes())
    (problem,) = problems(site)
    assert problem.endswith(f"tls.key: is not the key of {site.folder}/etc/tls/fullchain.pem")


def test_a_secret_loses_one_newline_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text("s3cret \n\n")
    assert FileSecret(path).reveal() == "s3cret \n"


def test_the_environment_and_systemd_can_hold_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASTION_TEST_SECRET", "from the environment")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "oidc").write_text("from systemd\n")
    assert EnvSecret("BASTION_TEST_SECRET").reveal() == "from the environment"
    assert CredentialSecret("oidc").reveal() == "from systemd"


def test_a_secret_that_is_not_there_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match="the environment variable BASTION_NOT_SET is not set, or empty"):
        EnvSecret("BASTION_NOT_SET").reveal()
    with pytest.raises(ConfigError, match="add LoadCredential=oidc:… to the unit"):
        CredentialSecret("oidc").reveal()


@pytest.mark.parametrize(
    "raw",
    [{}, {"file": ""}, {"file": 3}, {"file": "/a", "env": "B"}, {"vault": "x"}, {"credential": "../key"}, [], None, 7],
    ids=repr,
)
def test_what_is_no_reference_is_refused(raw: object) -> None:
    with pytest.raises(ValueError):
        parse_secret(raw, Path("/"))


# ---------------------------------------------------------------------------------------------------------- values


def test_there_are_249_countries() -> None:
    """ISO 3166-1 has as many since South Sudan; reserved codes are none."""
    assert len(COUNTRIES) == 249
    assert {"NO", "GB", "SS", "AX"} <= COUNTRIES
    assert not {"UK", "EU", "XK", "AN", "ZZ", "A1"} & COUNTRIES


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [("0.0.0.0:22", "0.0.0.0", 22), ("[::]:2222", "::", 2222), ("localhost:0", "localhost", 0), ("[::1]:0", "::1", 0)],
)
def test_listeners_are_an_address_and_a_port(written: str, host: str, port: int) -> None:
    parsed = values.host_port(written)
    assert parsed == HostPort(host, port)
    assert str(parsed) == written


@pytest.mark.parametrize(
    "written", [":22", "::1:22", "0.0.0.0:65536", "0.0.0.0:0", "a b:22", "http://a:22", "[x]:22", "a:22:33", "a:٢٢", 22]
)
def test_what_is_no_listener_is_refused(written: object) -> None:
    with pytest.raises(ValueError):
        values.host_port(written)


@pytest.mark.parametrize(
    "written",
    ["bastion", "https://", "ftp://a", "https://u:p@a", "https://a#b", "https://a?b", "https://a:0", "https://a:x",
     "https://a/b", "http://127.0.0.1.example.com", "http://10.0.0.1", "https://a b", "javascript:alert(1)"],
)  # fmt: skip
def test_what_is_no_origin_is_refused(written: str) -> None:
    with pytest.raises(ValueError):
        values.public_url(written)


@pytest.mark.parametrize("written", ["http://localhost:8443", "http://127.0.0.1:8443", "http://[::1]:8443"])
def test_an_origin_on_loopback_may_be_in_clear(written: str) -> None:
    assert values.public_url(written + "/") == written


@pytest.mark.parametrize(
    "written", ["::ffff:10.0.0.0/104", "10.0.0.0/33", "10.0.0", "DE", "", 10, "10.0.0.0/0.0.0.255x"]
)
def test_what_is_no_network_is_refused(written: object) -> None:
    with pytest.raises(ValueError):
        values.network(written)


@given(st.integers(min_value=60, max_value=3600))
def test_durations_are_read_as_they_are_spelled(seconds: int) -> None:
    length = timedelta(seconds=seconds)
    assert values.duration(values.spell(length), timedelta(0), timedelta(days=1)) == length


@pytest.mark.parametrize("written", ["", "10", "m", "-5m", "1.5h", "NaN", "10 m", "1m1h", "9" * 20 + "m", 600, None])
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(ValueError):
        values.duration(written, timedelta(0), timedelta(days=10_000))


@pytest.mark.parametrize(("written", "read"), [("0KiB", 0), ("500KiB", 512_000), ("16MiB", 2**24), ("3TiB", 3 * 2**40)])
def test_sizes_are_read_as_they_are_spelled(written: str, read: int) -> None:
    size = values.size(written)
    assert size == read
    assert values.size(str(size)) == size


@pytest.mark.parametrize("written", ["", "16", "16MB", "16 MiB", "-1MiB", "1.5MiB", "1234567MiB", "16mib", 17, None])
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        values.size(written)


def test_how_much_is_kept_in_full_is_the_targets_own_or_that_of_all(site: Site) -> None:
    site.edit("    # full_until: everything ", "    full_until: everything ")
    site.edit("{full_until: 16MiB} ", "{full_until: 2MiB} ")
    targets = load(site.config).catalogue().targets
    assert targets["web-1.staging.eu"].full_until == 2 * 2**20
    assert targets["web-1.production.eu"].full_until is None


def test_settings_are_what_the_module_says_they_are() -> None:
    assert set(Settings.model_fields) == {
        "node", "public_url", "listen", "tls", "proxy_protocol", "data", "store", "coordination", "issuers", "geo",
        "regions", "environments", "targets", "policy", "policy_tests", "certificates", "chat", "workloads", "signals",
        "qr_codes", "notices", "recordings", "drain", "workers", "ssh_channels", "throttle",
    }  # fmt: skip
