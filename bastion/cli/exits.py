"""Exit statuses, for scripts."""

from __future__ import annotations

OK = 0
REFUSED = 1
"""The bastion said no; the sentence on standard error says why."""
USAGE = 2
"""The command line or the configuration is wrong; nothing was started or changed."""
NOT_LOGGED_IN = 3
UNREACHABLE = 4
"""The bastion did not answer."""
