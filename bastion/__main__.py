"""``python -m bastion`` and the ``bastion`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from bastion.cli import build

    build()()


if __name__ == "__main__":
    main()
