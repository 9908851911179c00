"""`bastion targets` says which host keys targets have announced, as the operator's own command line on the machine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bastion.access.hostkeys import HostKeys
from bastion.adapters.clock import SystemClock
from bastion.adapters.store import open_store
from bastion.config import load
from tests.site import Site, install

NEW = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return install(tmp_path)


def targets(site: Site, *flags: str) -> str:
    command = [sys.executable, "-m", "bastion", "targets", "--config", str(site.config), *flags]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def announce(site: Site) -> None:
    async def announced() -> None:
        settings = load(site.config)
        settings.data.mkdir(mode=0o700)
        store = await open_store(f"sqlite:///{settings.data / 'bastion.db'}")
        web = settings.catalogue().targets["web-1.staging.eu"]
        keys = HostKeys(store=store, clock=SystemClock(), node="bastion-1")
        await keys.announced(web, [*web.host_keys, NEW], by=web.host_keys[0], session_id="s-1")
        await store.close()

    asyncio.run(announced())


def test_the_lines_that_belong_into_the_configuration_are_listed(site: Site) -> None:
    announce(site)
    assert targets(site).splitlines() == [
        "web-1.staging.eu  10.20.1.5 port 22",
        f"  to be put into its host_keys: {NEW}",
        "web-1.production.eu  web-1.prod.internal port 22",
    ]
    assert [row["new_host_keys"] for row in json.loads(targets(site, "--json"))] == [[NEW], []]
