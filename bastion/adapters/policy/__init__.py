"""The written policies, in Cedar: port `bastion.ports.Policies`.

One file is read once (`rules`), each question is put to the engine with only the entities it concerns (`facts`), a
refusal without a forbid is explained (`nearmiss`), and the answer is a ruling (`engine`). The schema is built in
(``bastion.cedarschema``), and without it nothing is ever asked: see `engine` for why.
"""

from __future__ import annotations

from bastion.adapters.policy.current import CurrentPolicies
from bastion.adapters.policy.engine import CedarPolicies
from bastion.adapters.policy.schema import schema_text

__all__ = ["CedarPolicies", "CurrentPolicies", "schema_text"]
