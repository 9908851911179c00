"""What every test may ask for, and how hypothesis searches."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes import FakeClock
from tests.services.sshd import start_sshd

__all__ = ["start_sshd"]

# The same inputs in every run, so that a red run is red for a reason that is in the change. No deadlines: a busy
# machine is not a bug. `HYPOTHESIS_PROFILE=search make test` looks at many new inputs instead.
settings.register_profile("ci", derandomize=True, deadline=None, database=None)
settings.register_profile(
    "search", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A shell starts what it puts in the background with SIGINT ignored, every child inherits that, and tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test reads or writes the keyring of whoever runs it; those that are about keyrings bring their own.
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still until it is advanced."""
    return FakeClock()
