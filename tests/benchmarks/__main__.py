"""``python -m tests.benchmarks [PREFIX]``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tests.benchmarks import audit, exact, soak, ssh
from tests.benchmarks.bench import Bench, bench

FIGURES: dict[str, Callable[[Bench], AsyncIterator[tuple[str, float]]]] = {
    "ssh_bulk": ssh.bulk,
    "ssh_connect": ssh.connect,
    "ssh_session_cpu": ssh.session_cpu,
    "ssh_echo": ssh.echo,
    "ssh_idle": ssh.idle,
    "audit_visible": audit.visible,
    "logout": ssh.logout,
    "revoke": ssh.revoke,
}
"""By the beginning of the names they give."""

LONG: dict[str, Callable[[Bench], AsyncIterator[tuple[str, float]]]] = {
    "ssh_exact": exact.exact,
    "ssh_soak": soak.soak,
}
"""Those that take from minutes to an hour, and run only when they are named."""


async def main(prefix: str) -> int:
    chosen = [run for name, run in FIGURES.items() if name.startswith(prefix) or prefix.startswith(name)]
    chosen += [run for name, run in LONG.items() if prefix.startswith(name)]
    if not chosen:
        print(f"No figure begins with {prefix}. There are: {', '.join([*FIGURES, *LONG])}", file=sys.stderr)  # noqa: T201 - ours
        return 2
    with tempfile.TemporaryDirectory(prefix="bastion-bench-") as folder:
        async with bench(Path(folder)) as running:
            for run in chosen:
                async for name, value in run(running):
                    print(f"{name} {value:.3g}", flush=True)  # noqa: T201 - the figures are what this prints
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "")))
