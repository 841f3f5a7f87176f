"""One HTTP exchange with a Vault: the only module that speaks ``hvac``.

Of ``hvac`` it uses the adapter, which knows the headers of a Vault, and none of the rest:
its methods do not escape names, its errors hold bodies, it follows redirects with the token,
and its client reads tokens from the environment and from the home directory.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from hvac.adapters import RawAdapter
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from sealedhealth.errors import InvalidInput, ServiceUnavailable
from sealedhealth.keys.vault.answers import Answer
from sealedhealth.keys.vault.config import VaultConfig
from sealedhealth.keys.vault.hidden import HiddenText
from sealedhealth.keys.vault.layout import checked_path

__all__ = ["MAX_ANSWER_SIZE", "Lost", "NotSent", "Wire"]

MAX_ANSWER_SIZE = 8 * 2**20
POOL_SIZE = 32
CONNECT_S = 10.0
_SECRETS = {"plaintext", "client_token", "secret_id", "token", "id"}


class NotSent(ServiceUnavailable):
    """No connection: the request did not leave this machine."""


class Lost(ServiceUnavailable):
    """The request was sent, and no answer came: it may have been carried out."""


class _Session(requests.Session):
    """A session that does not even look where a redirection leads."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002
        """Nowhere."""
        return


class _Adapter(RawAdapter):
    """hvac's adapter without its errors: those hold bodies, and lack headers and status."""

    def request(self, method: str, url: str, headers: Any = None, raise_exception: bool = False, **kwargs: Any) -> Any:  # noqa: ARG002
        return super().request(method, url, headers=headers, raise_exception=False, stream=True, **kwargs)


@dataclass(frozen=True, slots=True)
class Sent:
    """How much went out and came back in one exchange."""

    answer: Answer
    sent: int
    received: int


class Wire:
    """A pool of connections to one Vault. Safe to share among threads; no token is kept here."""

    def __init__(self, config: VaultConfig) -> None:
        for file in (config.ca_file, config.client_certificate, config.client_key):
            if file is not None and not file.is_file():
                raise InvalidInput(f"There is no file {file}.", next="Correct the profile.")
        session = _Session()
        session.trust_env = False  # no proxy, no certificates and no .netrc from the environment
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=POOL_SIZE, max_retries=0))
        session.verify = str(config.ca_file) if config.ca_file else True
        if config.client_certificate is not None:
            certificate = str(config.client_certificate)
            session.cert = (certificate, str(config.client_key)) if config.client_key else certificate
        self._config = config
        self._session = session
        self._adapter = _Adapter(
            base_uri=config.address.rstrip("/"),
            token=None,
            cert=session.cert,
            verify=session.verify,
            allow_redirects=False,
            session=session,
            namespace=config.namespace.strip("/") or None,
        )

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: HiddenText | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Sent:
        """Send one request and read the whole answer.

        Raises ``NotSent``, ``Lost``, and ``ServiceUnavailable`` for what is no answer of a Vault.
        """
        url = f"v1/{checked_path(path)}"
        content = HiddenText(json.dumps(body, separators=(",", ":"))) if body is not None else None
        sending = {"Content-Type": "application/json", "Accept-Encoding": "identity", **(headers or {})}
        if token is not None:
            sending["X-Vault-Token"] = token
        failure: ServiceUnavailable
        try:
            return self._exchange(method, url, content, sending)
        except ServiceUnavailable:
            raise
        except requests.exceptions.SSLError as error:
            failure = (
                self._lost(error)
                if not _untrusted(error)
                else ServiceUnavailable(
                    f"The Vault at {self._config.host} could not prove who it is: {_reason(error)}.",
                    safe="Nothing was sent.",
                    next="Check the certificate authority and the client certificate in the profile.",
                )
            )
        except (requests.exceptions.ConnectTimeout, requests.exceptions.InvalidURL) as error:
            failure = self._not_sent(error)
        except requests.exceptions.ConnectionError as error:
            # Cut while sending or waiting; a connection that was never made is another class below.
            failure = self._not_sent(error) if _never_connected(error) else self._lost(error)
        except (requests.exceptions.RequestException, HTTPError, ValueError, OSError) as error:
            failure = self._lost(error)
        # Outside of the handlers: what is raised there would drag the request along as its context.
        raise failure

    def _exchange(self, method: str, url: str, content: HiddenText | None, headers: dict[str, str]) -> Sent:
        limit = self._config.timeout_s
        deadline = time.monotonic() + limit
        with self._adapter.request(
            method, url, headers=headers, data=content, timeout=(min(limit, CONNECT_S), limit)
        ) as response:
            raw = bytearray()
            # Not iter_content, which waits for whole pieces: a peer that drips could keep us for ever.
            while part := response.raw.read1(65536):
                raw += part
                if len(raw) > MAX_ANSWER_SIZE:
                    raw.clear()
                    raise ServiceUnavailable("The answer of the Vault is too long to be one.", safe="It was not used.")
                if time.monotonic() > deadline:
                    raise TimeoutError
            names = {name.lower(): value for name, value in response.headers.items()}
            if len(raw) < int(names.get("content-length", 0)):
                raise TimeoutError
            status = int(response.status_code)
        return Sent(Answer(status, _parsed(raw, status), names), len(content or ""), len(raw))

    def _not_sent(self, error: Exception) -> NotSent:
        return NotSent(
            f"The Vault at {self._config.host} cannot be reached: {_reason(error)}.",
            safe="Nothing was sent.",
            next="Check the address in the profile, the network, and whether the Vault is up.",
        )

    def _lost(self, error: Exception) -> Lost:
        return Lost(
            f"The Vault at {self._config.host} did not answer: {_reason(error)}.",
            safe="What is committed stays committed.",
            next="Try again.",
        )


def _parsed(raw: bytearray, status: int) -> Mapping[str, Any]:
    if not raw.strip():
        return {}
    parsed: object = None
    try:
        parsed = json.loads(raw, object_pairs_hook=_hiding)
    except (ValueError, RecursionError):
        broken = True
    else:
        broken = not isinstance(parsed, dict)
    if isinstance(parsed, dict) and not broken:
        return parsed
    raw.clear()  # half an answer may hold a key, and a traceback would show it
    if 200 <= status < 300:
        raise ServiceUnavailable(
            "What answers at the Vault's address is not a Vault.",
            safe="The answer was not used.",
            next="Check the address in the profile, and what stands between here and there.",
        )
    return {}  # an error page of something in between: the status says enough


def _hiding(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose secret members do not show."""
    return {name: HiddenText(value) if name in _SECRETS and isinstance(value, str) else value for name, value in pairs}


def _untrusted(error: BaseException) -> bool:
    """Whether the other side's certificate was refused: asking again would not help."""
    return any(isinstance(cause, ssl.SSLCertVerificationError | ssl.CertificateError) for cause in _causes(error))


def _never_connected(error: BaseException) -> bool:
    """Whether urllib3 could not even make the connection."""
    return any(type(cause).__name__ in {"NewConnectionError", "NameResolutionError"} for cause in _causes(error))


def _reason(error: BaseException) -> str:
    """The innermost system error or class; never the text of a request's exception, which may hold anything."""
    for cause in _causes(error):
        if (
            isinstance(cause, OSError)
            and cause.strerror
            and not isinstance(cause, requests.exceptions.RequestException)
        ):
            return cause.strerror
    innermost = list(_causes(error))[-1]
    return type(innermost).__name__


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    waiting: list[BaseException] = [error]
    while waiting and len(found) < 32:
        one = waiting.pop(0)
        if one in found:
            continue
        found.append(one)
        waiting += [
            other
            for other in (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
            if isinstance(other, BaseException)
        ]
    return found
