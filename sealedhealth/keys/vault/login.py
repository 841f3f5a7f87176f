"""Ways to log in. Which one is always named: nothing is taken from ``VAULT_TOKEN`` or ``~/.vault-token``."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sealedhealth.errors import AccessDenied, InvalidInput, SealedHealthError
from sealedhealth.keys.vault.answers import Answer, error_of
from sealedhealth.keys.vault.hidden import HiddenText

__all__ = [
    "AppRoleLogin",
    "CertificateLogin",
    "Credential",
    "JwtLogin",
    "KubernetesLogin",
    "Login",
    "TokenFileLogin",
    "TokenVariableLogin",
]

KUBERNETES_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
MAX_SECRET_SIZE = 65536
_SECRET = re.compile(r"[!-~]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Credential:
    """What a login gives: a token and how long it lives."""

    token: HiddenText
    lease_s: float = 0.0  #: seconds; 0 when it is not known, or without end
    renewable: bool = False
    known: bool = True  #: False for a token that was given to us: its lease is not known yet


class Asking(Protocol):
    """Sends one request with the token given, or none, and gives whatever is answered."""

    def __call__(self, path: str, body: Mapping[str, Any], *, token: HiddenText | None = None) -> Answer:
        """The answer, of any status."""
        ...


class Login(Protocol):
    """One way to get a token."""

    @property
    def repeatable(self) -> bool:
        """Whether it works again once the token has run out."""
        ...

    def login(self, ask: Asking) -> Credential:
        """Get a token. Raises ``AccessDenied`` or ``InvalidInput``."""
        ...


@dataclass(frozen=True, slots=True)
class AppRoleLogin:
    """AppRole, its secret id wrapped for one opening.

    The file holds the wrapping token. It is looked up first, so that a wrap of something else
    is refused before it is opened; one that was opened before is reported as interception.

    Parameters
    ----------
    role_id:
        The role's id; not a secret.
    secret_id_file:
        File with the wrapping token, or with the bare secret id when not *wrapped*; nobody
        but its owner may read it.
    wrapped:
        False for a bare secret id.
    role_name:
        When given, the wrap has to come from this role.
    """

    role_id: str
    secret_id_file: Path
    wrapped: bool = True
    role_name: str = ""
    mount: str = "approle"

    @property
    def repeatable(self) -> bool:
        """A wrap opens once."""
        return not self.wrapped

    def login(self, ask: Asking) -> Credential:
        """See :class:`Login`."""
        secret = read_secret(self.secret_id_file, "secret id")
        if self.wrapped:
            secret = self._unwrap(ask, secret)
        body = {"role_id": self.role_id, "secret_id": secret}
        return _credential(ask(f"auth/{self.mount}/login", body), f"AppRole at {self.mount}")

    def _unwrap(self, ask: Asking, wrap: HiddenText) -> HiddenText:
        found = ask("sys/wrapping/lookup", {"token": wrap})
        if not found.ok:
            raise self._intercepted(found)
        path = found.data.get("creation_path")
        role = re.escape(self.role_name) if self.role_name else r"[\w.-]+"
        if not isinstance(path, str) or not re.fullmatch(rf"auth/{re.escape(self.mount)}/role/{role}/secret-id", path):
            raise AccessDenied(
                f"The wrapping token in {self.secret_id_file} does not wrap a secret id of this role.",
                safe="It was not opened.",
                next="Somebody may have put it there: tell the Vault's administrator, and ask for a new one.",
            )
        opened = ask("sys/wrapping/unwrap", {}, token=wrap)
        secret = opened.data.get("secret_id")
        if not opened.ok or not isinstance(secret, str):
            raise self._intercepted(opened)
        return HiddenText(secret)

    def _intercepted(self, answer: Answer) -> AccessDenied:
        if answer.status >= 500 or answer.status == 429:
            raise _refused(answer, "unwrapping the secret id")
        return AccessDenied(
            f"The secret id wrapped by the token in {self.secret_id_file} was opened before, or has expired"
            f" (HTTP {answer.status}).",
            safe="Nothing was opened with it here.",
            next="If it has not simply expired, treat this as interception: have the secret id revoked, look in the"
            " Vault's audit log for who opened it, and ask for a new one.",
        )


@dataclass(frozen=True, slots=True)
class JwtLogin:
    """JWT or OIDC: a signed token from a file, which nobody but its owner may read."""

    role: str
    token_file: Path
    mount: str = "jwt"
    repeatable: bool = field(default=True, init=False)

    def login(self, ask: Asking) -> Credential:
        """See :class:`Login`."""
        body = {"role": self.role, "jwt": read_secret(self.token_file, "JWT")}
        return _credential(ask(f"auth/{self.mount}/login", body), f"JWT at {self.mount}")


@dataclass(frozen=True, slots=True)
class KubernetesLogin:
    """Kubernetes: the service account's token, which the cluster puts into the pod and renews there."""

    role: str
    token_file: Path = KUBERNETES_TOKEN
    mount: str = "kubernetes"
    repeatable: bool = field(default=True, init=False)

    def login(self, ask: Asking) -> Credential:
        """See :class:`Login`."""
        # Kubernetes makes the file readable to every process of the pod: that is not ours to judge.
        body = {"role": self.role, "jwt": read_secret(self.token_file, "service account token", private=False)}
        return _credential(ask(f"auth/{self.mount}/login", body), f"Kubernetes at {self.mount}")


@dataclass(frozen=True, slots=True)
class CertificateLogin:
    """TLS certificate: the client certificate that the configuration names."""

    role: str = ""
    mount: str = "cert"
    repeatable: bool = field(default=True, init=False)

    def login(self, ask: Asking) -> Credential:
        """See :class:`Login`."""
        body = {"name": self.role} if self.role else {}
        return _credential(ask(f"auth/{self.mount}/login", body), f"TLS certificate at {self.mount}")


@dataclass(frozen=True, slots=True)
class TokenFileLogin:
    """A token that somebody else fetched, for example an agent, in a file that only its owner may read."""

    path: Path
    repeatable: bool = field(default=True, init=False)  #: whoever wrote it may have replaced it

    def login(self, ask: Asking) -> Credential:  # noqa: ARG002 - as the protocol has it
        """See :class:`Login`."""
        return Credential(read_secret(self.path, "token"), known=False)


@dataclass(frozen=True, slots=True)
class TokenVariableLogin:
    """A token in an environment variable that the profile names."""

    variable: str
    repeatable: bool = field(default=False, init=False)

    def login(self, ask: Asking) -> Credential:  # noqa: ARG002 - as the protocol has it
        """See :class:`Login`."""
        if not _VARIABLE.fullmatch(self.variable):
            raise InvalidInput(f"{self.variable[:100]!r} cannot be the name of an environment variable.")
        token = HiddenText(os.environ.get(self.variable, "").strip())
        if not _SECRET.fullmatch(token):
            raise AccessDenied(
                f"The environment variable {self.variable} holds no token.",
                safe="Nothing was sent.",
                next="Set it, or name another way to log in in the profile.",
            )
        return Credential(token, known=False)


def read_secret(path: Path, what: str, *, private: bool = True) -> HiddenText:
    """The one line of a file that holds a secret.

    Raises ``AccessDenied`` when it is missing, or when *private* and others than its owner may
    read or change it; ``InvalidInput`` when it holds no single word of printable ASCII.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise AccessDenied(
            f"The file {path} with the {what} cannot be read: {error.strerror}.", next="Correct the profile."
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"{path} is no file that could hold the {what}.")
        if private and (status.st_mode & 0o077 or status.st_uid not in {0, os.geteuid()}):
            raise AccessDenied(
                f"Others than this user may read or change {path}, which holds the {what}.",
                safe="It was not used.",
                next=f"Have the {what} replaced, for others may have read it; then chmod 600 {path}.",
            )
        content = HiddenText(os.read(descriptor, MAX_SECRET_SIZE + 1).decode("ascii", "replace").strip())
    finally:
        os.close(descriptor)
    if len(content) > MAX_SECRET_SIZE or not _SECRET.fullmatch(content):
        raise InvalidInput(f"{path} does not hold a {what} and nothing else.", safe="Nothing was sent.")
    return content


def _credential(answer: Answer, how: str) -> Credential:
    if not answer.ok:
        raise _refused(answer, how)
    granted = answer.body.get("auth")
    token = granted.get("client_token") if isinstance(granted, dict) else None
    if not isinstance(granted, dict) or not isinstance(token, str) or not _SECRET.fullmatch(token):
        raise AccessDenied(
            f"Logging in by {how} gave no token.",
            next="If the Vault asks for a second factor here, use a login that does not.",
        )
    return Credential(HiddenText(token), float(granted.get("lease_duration") or 0), bool(granted.get("renewable")))


def _refused(answer: Answer, how: str) -> SealedHealthError:
    if answer.status in {400, 401, 403}:
        return AccessDenied(
            f"The Vault refused the login by {how} (HTTP {answer.status}).",
            safe="Nothing was changed.",
            next="Check role, audience, expiry and bound networks with the Vault's administrator and its audit log.",
        )
    return error_of(answer, f"the login by {how}")
