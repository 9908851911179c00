"""Which commands are labelled as transfers."""

from __future__ import annotations

import pytest

from bastion.core.bulk import label


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("rsync --server -logDtpre.iLsfxCIvu . /srv/", "rsync to the target"),
        ("rsync --server --sender -vlogDtpre.iLsfxCIvu . /srv/", "rsync from the target"),
        ("/usr/local/bin/rsync --server . /srv/", "rsync to the target"),
        ("git-upload-pack '/srv/repo.git'", "git from the target"),
        ("git-receive-pack '/srv/repo.git'", "git to the target"),
        ("git upload-archive 'repo'", "git from the target"),
        ("rsync -a /a /b", None),
        ("echo rsync --server", None),
        ("git-shell", None),
        ("rsync --servers", None),
    ],
)
def test_a_transfer_is_labelled_by_its_command(command: str, said: str | None) -> None:
    assert label(command) == said
