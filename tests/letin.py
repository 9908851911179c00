"""A contractor on the demo's stage who may connect, as most tests of whole processes begin."""

from __future__ import annotations

from bastion.demo.stage import LOGIN, STAGING_WEB, Stage


async def let_in(stage: Stage, *others: str) -> None:
    """Log in the contractor, the admin and ``others``, and give the contractor an hour and a certificate."""
    for who in ("contractor", "admin", *others):
        assert (await stage.run(who, "bastion", "login", stage.url)).status == 0
    granted = await stage.run(
        "admin", "bastion", "grant", "contractor@example.com", STAGING_WEB, "--as", LOGIN, "--for", "1h",
        "--because", "a test",
    )  # fmt: skip
    assert granted.status == 0, granted.said
    assert (await stage.run("contractor", "bastion", "cert", STAGING_WEB)).status == 0
