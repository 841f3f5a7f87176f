"""Setting a Vault up: a plan of API calls that can be read before it is run.

A plan is data: what to call, with which body, why, and how to see that it has been
done.  Running it twice changes nothing the second time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from sealedhealth.errors import ConflictError, NotFound
from sealedhealth.keys.vault.answers import VaultRefusal
from sealedhealth.keys.vault.client import VaultClient
from sealedhealth.keys.vault.layout import author_key
from sealedhealth.keys.vault.policies import (
    DATASET_ROLES,
    SITE_ROLES,
    DatasetKeys,
    Mounts,
    VaultRole,
    author_policy_name,
    author_rules,
    check_member,
    dataset_rules,
    policy_name,
    render,
    self_rules,
    site_rules,
)

__all__ = [
    "MemberTerms",
    "State",
    "Step",
    "apply",
    "dataset_plan",
    "expel",
    "member_plan",
    "members_policies",
    "role_text",
    "server_plan",
]

SELF_POLICY = "sealedhealth-self"
_READY_S = 10.0
_T = TypeVar("_T")


class State(StrEnum):
    """Whether a step has been done already."""

    DONE = "done"
    MISSING = "missing"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class Step:
    """One API call of a plan."""

    why: str
    method: str
    path: str
    body: Mapping[str, Any]
    read: str  #: the path that shows what is there now
    entry: str = ""  #: the key under which it is found there, for lists of mounts
    shows: Mapping[str, Any] | None = None  #: what reading shows when it is done; the body, when not given
    fixed: bool = False  #: whether what differs cannot be changed by the call

    def state(self, client: VaultClient) -> State:
        """Compare with what is there. Raises ``ConflictError`` when what is there cannot be made right."""
        there: Any = _when_ready(lambda: client.read(self.read))
        if there is None:
            return State.MISSING
        if self.entry:
            there = there.get(self.entry)
            if there is None:
                return State.MISSING
        wanted = self.body if self.shows is None else self.shows
        if _holds(wanted, there):
            return State.DONE
        if self.fixed:
            raise ConflictError(
                f"{self.read} has {self.entry or self.path} already, and it is something else.",
                safe="Nothing was changed.",
                next="Name other mounts in the profile's [vault] table, or remove what is there.",
            )
        return State.DIFFERS

    def text(self) -> str:
        """As one reviews it: the call, its body, and policies as HCL."""
        lines = [f"# {self.why}", f"{self.method} /v1/{self.path}"]
        policy = self.body.get("policy")
        if isinstance(policy, str):
            return "\n".join([*lines, "policy = <<HCL", policy.rstrip(), "HCL"])
        if self.body:
            lines.append(json.dumps(self.body, indent=2, sort_keys=True))
        return "\n".join(lines)


def _holds(wanted: Any, there: Any) -> bool:
    """Whether everything that is wanted is there; more may be there."""
    if isinstance(wanted, Mapping):
        return isinstance(there, Mapping) and all(_holds(value, there.get(key)) for key, value in wanted.items())
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return sorted(wanted) == sorted(there or ())
    return bool(wanted == there)


def apply(steps: Sequence[Step], client: VaultClient) -> Iterator[tuple[Step, State]]:
    """Do what is not done yet, in order; each step and the state that it was found in."""
    for step in steps:
        state = step.state(client)
        if state is not State.DONE:
            _when_ready(partial(client.write, step.path, step.body))
        yield step, state


def _when_ready(call: Callable[[], _T]) -> _T:
    """A KV mount that was made a moment ago answers 400 until it is ready."""
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            return call()
        except VaultRefusal as error:
            if "HTTP 400" not in error.what or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


# --- plans ---------------------------------------------------------------------------------


def server_plan(mounts: Mounts) -> list[Step]:
    """From an empty Vault to one in which datasets can be made."""
    transit, kv, approle = f"{mounts.transit}/", f"{mounts.kv}/", f"{mounts.approle}/"
    return [
        Step(
            "key-encryption keys and signing keys",
            "POST",
            f"sys/mounts/{mounts.transit}",
            {"type": "transit", "description": "sealedhealth: keys"},
            "sys/mounts",
            transit,
            {"type": "transit"},
            fixed=True,
        ),
        Step(
            "sealing under a key that does not exist must fail, not make one",
            "POST",
            f"{mounts.transit}/config/keys",
            {"disable_upsert": True},
            f"{mounts.transit}/config/keys",
        ),
        Step(
            "anchors and the registry",
            "POST",
            f"sys/mounts/{mounts.kv}",
            {"type": "kv", "options": {"version": "2"}, "description": "sealedhealth: anchors and registry"},
            "sys/mounts",
            kv,
            {"type": "kv", "options": {"version": "2"}},
            fixed=True,
        ),
        Step(
            "no entry is written without saying which version it replaces",
            "POST",
            f"{mounts.kv}/config",
            {"cas_required": True},
            f"{mounts.kv}/config",
        ),
        Step(
            "a way to log in for machines",
            "POST",
            f"sys/auth/{mounts.approle}",
            {"type": "approle", "description": "sealedhealth: producers, jobs, operations"},
            "sys/auth",
            approle,
            {"type": "approle"},
            fixed=True,
        ),
        _policy(
            SELF_POLICY, "what every token may do about itself", render("Every token of sealedhealth", self_rules())
        ),
        *(_policy(policy_name(role), f"the role {role}", role_text(mounts, role)) for role in SITE_ROLES),
    ]


def dataset_plan(mounts: Mounts, keys: DatasetKeys) -> list[Step]:
    """The policies of one dataset's roles."""
    return [
        _policy(policy_name(role, keys.dataset_id), f"the role {role} on this dataset", role_text(mounts, role, keys))
        for role in DATASET_ROLES
    ]


def role_text(mounts: Mounts, role: VaultRole, keys: DatasetKeys | None = None) -> str:
    """The HCL of one role. Raises ``InvalidInput`` when the role needs a dataset, or is not about one."""
    if keys is None:
        return render(f"{role}, for the whole site", site_rules(mounts, role))
    return render(f"{role} of dataset {keys.dataset_id.hex()}", dataset_rules(mounts, role, keys))


@dataclass(frozen=True, slots=True)
class MemberTerms:
    """How long a member's credentials live."""

    token_ttl: int = 3600  #: seconds; renewable up to token_max_ttl
    token_max_ttl: int = 24 * 3600
    secret_id_ttl: int = 30 * 24 * 3600
    secret_id_uses: int = 0  #: logins per secret id; 0: any number
    cidrs: tuple[str, ...] = field(default=())  #: networks it may log in from; empty: any


def member_plan(
    mounts: Mounts, member: str, policies: Sequence[str], *, signs: bool, terms: MemberTerms | None = None
) -> list[Step]:
    """One member: its signing key and the policy for it (when it *signs*), and a role to log in with."""
    terms = terms or MemberTerms()
    steps = []
    carried = [SELF_POLICY, *dict.fromkeys(policies)]
    if signs:
        key = author_key(check_member(member))
        name = author_policy_name(member)
        carried.append(name)
        steps = [
            Step(
                f"the signing key of {member}; its private half never leaves",
                "POST",
                f"{mounts.transit}/keys/{key}",
                {"type": "ecdsa-p384", "derived": False, "exportable": False, "allow_plaintext_backup": False},
                f"{mounts.transit}/keys/{key}",
                fixed=True,
            ),
            _policy(name, "only this member signs by it", render(f"{member} signs", author_rules(mounts, member))),
        ]
    role: dict[str, Any] = {
        "token_policies": carried,
        "token_no_default_policy": True,
        "token_type": "service",
        "token_ttl": terms.token_ttl,
        "token_max_ttl": terms.token_max_ttl,
        "secret_id_ttl": terms.secret_id_ttl,
        "secret_id_num_uses": terms.secret_id_uses,
    }
    if terms.cidrs:
        role |= {"token_bound_cidrs": list(terms.cidrs), "secret_id_bound_cidrs": list(terms.cidrs)}
    path = f"auth/{mounts.approle}/role/{check_member(member)}"
    return [*steps, Step(f"how {member} logs in, and what it may then do", "POST", path, role, path)]


def _policy(name: str, why: str, text: str) -> Step:
    path = f"sys/policies/acl/{name}"
    return Step(why, "POST", path, {"policy": text}, path)


def members_policies(mounts: Mounts, member: str, client: VaultClient) -> list[str]:
    """The policies of datasets and of the site that a member has already."""
    role = client.read(f"auth/{mounts.approle}/role/{check_member(member)}") or {}
    own = {SELF_POLICY, author_policy_name(member)}
    return [name for name in role.get("token_policies", []) if name not in own]


# --- taking rights away --------------------------------------------------------------------


def expel(mounts: Mounts, member: str, client: VaultClient) -> int:
    """End every right of a member at once: role, secret ids, entity and tokens. How many tokens were revoked.

    The signing key stays, so that what it signed can be checked; take it off the roster too.

    Raises
    ------
    NotFound
        There is no such member.
    """
    path = f"auth/{mounts.approle}/role/{check_member(member)}"
    role = client.read(f"{path}/role-id")
    if role is None:
        raise NotFound(
            f"Vault has no member {member} in auth/{mounts.approle}.",
            safe="Nothing was changed.",
            next="Check the name, and the profile's approle_mount.",
        )
    # The entity first: from the next moment on, every token it ever got is refused.
    accessor = (client.read("sys/auth") or {})[f"{mounts.approle}/"]["accessor"]
    alias = {"alias_name": role["role_id"], "alias_mount_accessor": accessor}
    entity = client.write("identity/lookup/entity", alias).get("id")
    if entity:
        client.write(f"identity/entity/id/{entity}", {"disabled": True})
    client.request("DELETE", path)
    revoked = 0
    for token in client.list("auth/token/accessors"):
        body = {"accessor": token}
        # One that ran out meanwhile answers 403 or 404.
        found = client.request("POST", "auth/token/lookup-accessor", body, accept=(403, 404)).data
        if found.get("path") == f"auth/{mounts.approle}/login" and (found.get("meta") or {}).get("role_name") == member:
            client.request("POST", "auth/token/revoke-accessor", body, accept=(403, 404))
            revoked += 1
    return revoked
