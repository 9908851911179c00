"""``python -m bastion`` and the ``bastion`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    words = sys.argv[1:]
    if words[:2] == ["cert", "--refresh"]:  # before every ssh: most often there is nothing to do
        from bastion.cli import fresh

        if fresh.is_fresh(words[2:]):
            return
    from bastion.cli.command import build

    build(words[0] if words else None)()


if __name__ == "__main__":
    main()
