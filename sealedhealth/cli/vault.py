"""``sealedhealth vault``: set a Vault up, show policies, enrol and expel members."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import DURATION, help_text, profile, vault_client, verb
from sealedhealth.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from datetime import timedelta

    from sealedhealth.keys.vault.client import VaultClient
    from sealedhealth.keys.vault.policies import DatasetKeys
    from sealedhealth.keys.vault.setup import Step
    from sealedhealth.keys.vault.table import VaultTable
    from sealedhealth.profiles import Profile

__all__ = ["vault_command"]

_ROLES = ["controller", "producer", "reader", "curator", "rotator", "founder", "key-administrator", "auditor"]
_DATASET_ROLES = _ROLES[:5]
_ROSTER_ROLES = ["producer", "curator", "rotator"]


@click.group(
    "vault",
    help=help_text(
        """
        OpenBao or HashiCorp Vault as the key service: mounts, policies, members.

        These verbs use the token of the profile, which needs an administrator's rights in Vault for all but `policy`
        and `author`. Each prints what it would do with --dry-run.

        From nothing to ready
        ---------------------
          sealedhealth vault setup --profile admin --dry-run     read it
          sealedhealth vault setup --profile admin --yes         mounts and site-wide policies
          sealedhealth create s3://bucket/cardio --profile founder
          sealedhealth vault setup s3://bucket/cardio --profile admin --yes
          sealedhealth vault enrol chu-lille producer s3://bucket/cardio --profile admin --yes
          sealedhealth vault author chu-lille s3://bucket/cardio --role producer --prefix chu-lille --profile dpo
        """
    ),
)
def vault_command() -> None:
    """Group of verbs."""


_dry_run = click.option("--dry-run", is_flag=True, help="Print the exact calls and policies, and do nothing.")
_yes = click.option("--yes", is_flag=True, help="Do it without asking.")


@verb("setup")
@click.argument("url", required=False)
@_dry_run
@_yes
def _setup(profile_name: str | None, url: str | None, dry_run: bool, yes: bool) -> None:
    """Set a Vault up for sealedhealth; with URL, make the policies of that dataset's roles.

    Harmless when repeated: what is there already is left alone, and what differs is put right. Mounts that are there
    but are something else are refused.

    Examples
    --------
    sealedhealth vault setup --profile admin --dry-run
    sealedhealth vault setup s3://bucket/cardio --profile admin --yes
    """
    from sealedhealth.keys.vault.setup import dataset_plan, server_plan

    chosen = profile(profile_name)
    table, client = _vault(chosen)
    steps = server_plan(table.mounts)
    if url is not None:
        steps += dataset_plan(table.mounts, _dataset_keys(url, chosen))
    _run(steps, client, dry_run=dry_run, yes=yes)


@verb("policy")
@click.argument("role", type=click.Choice(_ROLES))
@click.argument("url", required=False)
def _policy(profile_name: str | None, role: str, url: str | None) -> None:
    """Print the policy of one role as HCL; with URL for the roles that are about one dataset.

    Examples
    --------
    sealedhealth vault policy producer s3://bucket/cardio
    sealedhealth vault policy auditor
    """
    from sealedhealth.keys.vault.policies import VaultRole, policy_name
    from sealedhealth.keys.vault.setup import role_text

    chosen = profile(profile_name)
    table, _ = _vault(chosen)
    if (role in _DATASET_ROLES) != (url is not None):
        raise InvalidInput(
            f"{role} is a role on one dataset: name its URL."
            if url is None
            else f"{role} is a role for the whole site, not for one dataset."
        )
    keys = None if url is None else _dataset_keys(url, chosen)
    name = policy_name(VaultRole(role), keys.dataset_id if keys else None)
    text = role_text(table.mounts, VaultRole(role), keys)
    output.emit({"policy": name, "hcl": text}, text.rstrip("\n"))


@verb("enrol")
@click.argument("member")
@click.argument("role", type=click.Choice(_ROLES))
@click.argument("url", required=False)
@click.option("--only", is_flag=True, help="In place of the roles that MEMBER has, not beside them.")
@click.option("--ttl", type=DURATION, metavar="SPAN", help="Life of a token, renewable (default: 1h).")
@click.option("--max-ttl", type=DURATION, metavar="SPAN", help="Life of a token with all its renewals (default: 24h).")
@click.option("--secret-id-ttl", type=DURATION, metavar="SPAN", help="Life of a secret id (default: 30d).")
@click.option("--secret-id-uses", type=click.IntRange(0), default=0, help="Logins per secret id (default: any number).")
@click.option("--secret-id-file", metavar="FILE", help="Where MEMBER keeps its secret id (default: MEMBER.secret-id).")
@click.option("--cidr", multiple=True, metavar="NET", help="Network it may log in from; may be repeated.")
@_dry_run
@_yes
def _enrol(
    profile_name: str | None,
    member: str,
    role: str,
    url: str | None,
    only: bool,
    ttl: timedelta | None,
    max_ttl: timedelta | None,
    secret_id_ttl: timedelta | None,
    secret_id_uses: int,
    secret_id_file: str | None,
    cidr: tuple[str, ...],
    dry_run: bool,
    yes: bool,
) -> None:
    """Make MEMBER, with ROLE on the dataset at URL: a way to log in, and a signing key if the role signs.

    Prints the profile that MEMBER needs, which holds no secret.

    Members with a role on several datasets keep what they have: the new policy is added. A member that signs has to be
    put on the dataset's roster too, by the data controller: `vault author`.

    Examples
    --------
    sealedhealth vault enrol chu-lille producer s3://bucket/cardio --cidr 192.0.2.0/28 --yes
    sealedhealth vault enrol job-7 reader s3://bucket/cardio --secret-id-uses 1 --yes
    sealedhealth vault enrol dpo controller s3://bucket/cardio --only --yes
    """
    from sealedhealth.keys.vault.policies import VaultRole, policy_name
    from sealedhealth.keys.vault.setup import MemberTerms, member_plan, members_policies

    chosen = profile(profile_name)
    table, client = _vault(chosen)
    if (role in _DATASET_ROLES) != (url is not None):
        raise InvalidInput(f"{role} {'needs the' if url is None else 'takes no'} URL of a dataset.")
    dataset_id = None if url is None else _dataset_keys(url, chosen).dataset_id
    policy = policy_name(VaultRole(role), dataset_id)
    carried = [] if only else members_policies(table.mounts, member, client)
    defaults = MemberTerms()
    terms = MemberTerms(
        token_ttl=_seconds(ttl, defaults.token_ttl),
        token_max_ttl=_seconds(max_ttl, defaults.token_max_ttl),
        secret_id_ttl=_seconds(secret_id_ttl, defaults.secret_id_ttl),
        secret_id_uses=secret_id_uses,
        cidrs=cidr,
    )
    signs = role not in {"reader", "auditor", "key-administrator"}
    steps = member_plan(table.mounts, member, [*carried, policy], signs=signs, terms=terms)
    _run(steps, client, dry_run=dry_run, yes=yes, result=False)
    if dry_run:
        return
    answer = client.read(f"auth/{table.mounts.approle}/role/{member}/role-id") or {}
    text = _member_profile(table, member, role, str(answer.get("role_id")), secret_id_file)
    output.emit({"member": member, "role_id": answer.get("role_id"), "profile": text}, text)
    output.note(
        f"That is its profile. Its secret id: `sealedhealth vault secret-id {member}`, wrapped, to be opened once."
    )
    signed = _ROSTER_ROLES if role == "controller" else [role] if role in _ROSTER_ROLES else []
    if signed:
        options = " ".join(f"--role {one}" for one in signed)
        output.note(f"To commit, it has to be on the roster: `sealedhealth vault author {member} {url} {options}`.")


@verb("secret-id")
@click.argument("member")
@click.option("--wrap-ttl", type=DURATION, metavar="SPAN", help="How long it waits to be opened (default: 15m).")
def _secret_id(profile_name: str | None, member: str, wrap_ttl: timedelta | None) -> None:
    """Make a secret id for MEMBER, and print the token it is wrapped in.

    Hand the token over. It can be opened once, so that a member who finds it opened knows that somebody else has the
    secret id. A job that logs in once names its file as `wrapped_secret_id_file` in its profile, and opens it itself;
    somebody who logs in again and again opens it by `bao unwrap` and keeps the secret id in a file.

    Examples
    --------
    sealedhealth vault secret-id job-7 --wrap-ttl 1h > token
    bao unwrap -field=secret_id "$(cat token)" > chu-lille.secret-id
    """
    from sealedhealth.keys.vault.policies import check_member

    table, client = _vault(profile(profile_name))
    path = f"auth/{table.mounts.approle}/role/{check_member(member)}/secret-id"
    token = client.wrapped(path, {}, _seconds(wrap_ttl, 900))
    output.emit({"member": member, "wrapping_token": token}, token)


@verb("author")
@click.argument("member")
@click.argument("url")
@click.option("--role", "roles", type=click.Choice(_ROSTER_ROLES), multiple=True, help="May be repeated.")
@click.option("--prefix", default="", metavar="PATH", help="The only directory where a producer may put.")
@click.option("--remove", is_flag=True, help="Take the member off the roster: nothing it signs from now on counts.")
def _author(profile_name: str | None, member: str, url: str, roles: tuple[str, ...], prefix: str, remove: bool) -> None:
    """Put MEMBER on the roster of the dataset at URL, or change what it may commit. For the data controller.

    The public key is read from Vault; the new roster is signed by the dataset's root key.

    Examples
    --------
    sealedhealth vault author chu-lille s3://bucket/cardio --role producer --prefix chu-lille
    sealedhealth vault author chu-lille s3://bucket/cardio --remove
    """
    from sealedhealth.dataset import Dataset
    from sealedhealth.log.roster import Role
    from sealedhealth.profiles import connect
    from sealedhealth.session import set_author

    if remove == bool(roles):
        raise click.UsageError("Give either --role, at least once, or --remove.")
    chosen = profile(profile_name)
    _vault(chosen)
    dataset, path = Dataset.find(url, profile=chosen)
    if path:
        raise click.UsageError(f"A roster belongs to a dataset: name {dataset.url}.")
    key = connect(chosen).service.author(member)
    sequence = set_author(
        dataset.session,
        key.public_key,
        name=member,
        roles=[Role(role) for role in roles],
        prefix=prefix,
        active=not remove,
    )
    output.emit(
        {"member": member, "dataset": dataset.id, "roles": list(roles), "prefix": prefix, "active": not remove,
         "commit": sequence},
        f"{member} is {'off' if remove else 'on'} the roster of {dataset.url} since commit {sequence}.",
    )  # fmt: skip


@verb("list")
def _list(profile_name: str | None) -> None:
    """List the datasets that the Vault has keys for, as far as this identity may see them.

    Examples
    --------
    sealedhealth vault list --profile auditor
    """
    from sealedhealth.profiles import connect

    chosen = profile(profile_name)
    _vault(chosen)
    rows = []
    for ref in connect(chosen).registry.datasets():
        output.emit({"dataset": ref.dataset_id.hex(), "urls": list(ref.urls), "destroyed": ref.destroyed})
        rows.append([ref.dataset_id.hex(), "destroyed" if ref.destroyed else "in use", " ".join(ref.urls) or "-"])
    if rows:
        output.table(["DATASET", "STATE", "URL"], rows)
    else:
        output.line("No dataset yet.")


@verb("expel")
@click.argument("member")
@_yes
def _expel(profile_name: str | None, member: str, yes: bool) -> None:
    """End every right of MEMBER in Vault at once: its role, its secret ids and its tokens.

    Its next call fails. A member that signs has to be taken off each roster too: `vault author --remove`. What a reader
    has opened before, it has: destroy nothing for that, but rotate and rewrap.

    Examples
    --------
    sealedhealth vault expel job-7 --yes
    """
    from sealedhealth.keys.vault.setup import expel

    table, client = _vault(profile(profile_name))
    if not yes and not click.confirm(f"End every right of {member} now?", err=True):
        raise click.Abort
    revoked = expel(table.mounts, member, client)
    output.emit(
        {"member": member, "expelled": True, "tokens_revoked": revoked},
        f"{member} is out: {revoked} token{'' if revoked == 1 else 's'} revoked, no secret id left.",
    )


# --- helpers -------------------------------------------------------------------------------


def _vault(chosen: Profile) -> tuple[VaultTable, VaultClient]:
    client = vault_client(chosen)
    assert chosen.vault is not None
    return chosen.vault, client


def _member_profile(table: VaultTable, member: str, role: str, role_id: str, file: str | None) -> str:
    """The table of a member's profile."""
    from sealedhealth.keys.vault.layout import KV_MOUNT, TRANSIT_MOUNT
    from sealedhealth.keys.vault.policies import APPROLE_MOUNT

    config = table.config
    lines = [f"[profiles.{member}]", 'keys = "vault"', f"author = {json.dumps(member)}", ""]
    lines += [f"[profiles.{member}.vault]", f"address = {json.dumps(config.address)}"]
    lines += [f"allowed_hosts = {json.dumps(list(config.allowed_hosts))}"]
    lines += [f"jurisdiction = {json.dumps(config.jurisdiction, ensure_ascii=False)}"]
    for key, value, usual in (
        ("namespace", config.namespace, ""),
        ("transit_mount", table.mounts.transit, TRANSIT_MOUNT),
        ("kv_mount", table.mounts.kv, KV_MOUNT),
        ("approle_mount", table.mounts.approle, APPROLE_MOUNT),
        ("ca_file", str(config.ca_file or ""), ""),
    ):
        if value != usual:
            lines.append(f"{key} = {json.dumps(value)}")
    lines += [f"role = {json.dumps(role)}", "", f"[profiles.{member}.vault.auth]", 'method = "approle"']
    lines += [f"role_id = {json.dumps(role_id)}", f"secret_id_file = {json.dumps(file or f'{member}.secret-id')}"]
    return "\n".join(lines) + "\n"


def _dataset_keys(url: str, chosen: Profile) -> DatasetKeys:
    """What the policies of the dataset at *url* are about; needs no right to open it."""
    from sealedhealth.dataset import Dataset
    from sealedhealth.keys.vault.policies import DatasetKeys

    try:
        dataset, _ = Dataset.find(url, profile=chosen)
    except NotFound as error:
        raise NotFound(
            error.what, safe="Nothing was changed.", next="Make the dataset first: `sealedhealth create URL`."
        ) from None
    engine = dataset.session.engine
    policy, _ = engine.trusted_policy()
    urls = engine.context.registry.lookup(engine.dataset_id.hex()).urls
    return DatasetKeys(tuple(engine.kek(compartment) for compartment in policy.compartments), engine.root_name, urls)


def _run(steps: Sequence[Step], client: VaultClient, *, dry_run: bool, yes: bool, result: bool = True) -> None:
    from sealedhealth.keys.vault.setup import State, apply

    found = [(step, step.state(client)) for step in steps]
    if dry_run:
        for step, state in found:
            output.emit(
                {"state": state, "why": step.why, "method": step.method, "path": step.path, "body": dict(step.body)},
                f"# [{state}]\n{step.text()}\n",
            )
        return
    todo = [step for step, state in found if state is not State.DONE]
    if todo and not yes:
        for step in todo:
            output.note(step.text() + "\n")
        if not click.confirm(f"Make these {len(todo)} calls?", err=True):
            raise click.Abort
    for step, state in apply(steps, client):
        said = f"{'as it should be' if state is State.DONE else 'done':<16} {step.path}"
        output.emit({"path": step.path, "found": state, "now": "done"}, said if result else None)
        if not result:
            output.note(said)


def _seconds(span: timedelta | None, default: int) -> int:
    return default if span is None else int(span.total_seconds())


for _command in (_setup, _policy, _enrol, _secret_id, _author, _list, _expel):
    vault_command.add_command(_command)
