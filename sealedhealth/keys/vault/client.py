"""Requests to a Vault: token, retries, freshness, and answers that are checked."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, NoReturn, SupportsIndex

from sealedhealth.errors import AccessDenied, IntegrityError, SealedHealthError, ServiceUnavailable, StaleReplica
from sealedhealth.keys.vault.answers import (
    Answer,
    error_of,
    lags,
    leaderless,
    retry_after,
    retryable,
    shown,
    warnings_of,
)
from sealedhealth.keys.vault.calls import Call, shape
from sealedhealth.keys.vault.clock import ServerClock
from sealedhealth.keys.vault.config import VaultConfig
from sealedhealth.keys.vault.hidden import HiddenText
from sealedhealth.keys.vault.indexes import Indexes
from sealedhealth.keys.vault.layout import checked_path
from sealedhealth.keys.vault.login import Credential, Login
from sealedhealth.keys.vault.wire import Lost, NotSent, Wire

__all__ = ["VaultClient"]

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 3.0
SEALED_ATTEMPTS = 4  # a sealed Vault waits for people: not worth the whole retry time
RENEW_AT = 2 / 3  # of a lease
INDEX = "X-Vault-Index"


class VaultClient:
    """Speaks to one Vault as one identity. Safe to share among threads.

    It logs in when first used, and renews its token at two thirds of its lease for as long as
    it is open. Answers with warnings are errors: the server did not do all it was asked to.

    Parameters
    ----------
    config:
        Where and how.
    login:
        Who.
    """

    def __init__(self, config: VaultConfig, login: Login) -> None:
        self.config = config
        self.clock = ServerClock()
        self.observe: Callable[[Call], None] | None = None  #: called after every HTTP request
        self._login = login
        self._wire = Wire(config)
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()  # guards the fields; never held during a request
        self._tokens = threading.RLock()  # one thread logs in or renews at a time
        self._credential: Credential | None = None
        self._renew_at = float("inf")
        self._dies_at = float("inf")
        self.indexes = Indexes()  #: sent along with every request
        self._fresh_since = float("-inf")  # when the request began that gave the last index of a login or renewal
        self._login_had_index = False
        self._ha: bool | None = None
        self._keeper: threading.Thread | None = None
        self._closed = threading.Event()

    # -- what others use ------------------------------------------------------------------

    @property
    def calls(self) -> Mapping[str, int]:
        """HTTP requests made so far, by method and the first parts of the path (names of keys left out)."""
        with self._lock:
            return dict(self._calls)

    @property
    def total_calls(self) -> int:
        """HTTP requests made so far."""
        with self._lock:
            return self._calls.total()

    def read(self, path: str) -> Mapping[str, Any] | None:
        """The ``data`` at a path; ``None`` when nothing is there."""
        answer = self.request("GET", path, accept=(404,), doubtful=lambda answer: answer.status == 404)
        return None if answer.status == 404 else answer.data

    def list(self, path: str) -> list[str]:
        """The names below a path; empty when nothing is there."""
        answer = self.request("LIST", path, accept=(404,), doubtful=lambda answer: answer.status == 404)
        names = answer.data.get("keys", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ServiceUnavailable("The Vault's answer to a list is no list.", safe="It was not used.")
        return names

    def write(self, path: str, body: Mapping[str, Any], *, idempotent: bool = True) -> Mapping[str, Any]:
        """The ``data`` of the answer to a write. One that is not *idempotent* is never sent twice."""
        return self.request("POST", path, body, idempotent=idempotent).data

    def wrapped(self, path: str, body: Mapping[str, Any], ttl_s: int) -> HiddenText:
        """Write, and have the answer wrapped: the token that opens it once, within *ttl_s* seconds."""
        answer = self.request("POST", path, body, idempotent=False, headers={"X-Vault-Wrap-TTL": f"{ttl_s}s"})
        wrap = answer.body.get("wrap_info")
        token = wrap.get("token") if isinstance(wrap, dict) else None
        if not isinstance(token, HiddenText) or not token:
            raise ServiceUnavailable("The Vault did not wrap its answer.", safe="It was not used.")
        return token

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        accept: Collection[int] = (),
        idempotent: bool = True,
        doubtful: Callable[[Answer], bool] | None = None,
        tolerate: str = "",
    ) -> Answer:
        """Send a request, again where that can help and cannot harm, and check the answer.

        Parameters
        ----------
        headers:
            Headers beside the usual ones.
        accept:
            Statuses beside success that the caller deals with.
        idempotent:
            Whether a request that may have been carried out may be sent again.
        doubtful:
            Whether an answer may come from a standby that lags behind: it is then asked for
            once more with a fresh index, where there is more than one node.
        tolerate:
            Part of a warning that is expected and means no harm.

        Raises
        ------
        AccessDenied
            The token is no good any more, or its policies do not allow this.
        Lost
            The connection broke, and the request may or may not have been carried out.
        ServiceUnavailable, Throttled, StaleReplica
            It did not work within the time for retries; nothing was carried out.
        IntegrityError
            The answer carries a warning.
        """
        checked_path(path)
        begun = time.monotonic()
        answer = self._authorised(method, path, body, headers, accept, idempotent, tolerate)
        if doubtful is not None and doubtful(answer) and self.confirm_fresh(begun):
            answer = self._authorised(method, path, body, headers, accept, idempotent, tolerate)
        return answer

    def confirm_fresh(self, since: float) -> bool:
        """Make sure that answers show at least all that was committed at *since* (monotonic seconds).

        Returns whether an index was fetched for it: False on a server that is alone.

        Raises ``StaleReplica`` when the node cannot prove that it is in touch with its cluster.
        """
        self._token()  # a login gives an index of its own
        if self._fresh_since >= since:
            return True
        if not self._highly_available():
            return False
        with self._tokens:
            if self._fresh_since < since:
                self._fetch_index()
        return True

    def close(self) -> None:
        """Forget the token and close all connections. The token itself runs out on the server."""
        self._closed.set()
        with self._tokens:
            self._credential = None
        self._wire.close()

    def __repr__(self) -> str:
        return f"<VaultClient {self.config.address} as {type(self._login).__name__}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a VaultClient cannot be copied or pickled: connect again instead")

    # -- one request with its retries -------------------------------------------------------

    def _authorised(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        accept: Collection[int],
        idempotent: bool,
        tolerate: str,
    ) -> Answer:
        token = self._token()
        answer = self._persistently(method, path, body, token, idempotent, headers)
        if answer.status == 403 and self._token_is_dead(token):
            self._drop(token, shape(method, path))
            answer = self._persistently(method, path, body, self._token(), idempotent, headers)
        warnings = [text for text in warnings_of(answer) if not tolerate or tolerate not in text]
        if warnings:
            raise IntegrityError(
                f"The Vault did {shape(method, path)} with a warning: {shown(warnings[0])}",
                safe="The answer was not used.",
                next="What was asked for may not be in force: check the version of the server.",
            )
        if not answer.ok and answer.status not in accept:
            raise error_of(answer, shape(method, path))
        return answer

    def _persistently(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        token: HiddenText | None,
        idempotent: bool,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        deadline = time.monotonic() + self.config.retry_s
        attempt = 0
        while True:
            answer, failure = self._once(method, path, body, token, headers)
            wait = 0.0
            if answer is not None:
                sealed = "sealed" in answer.messages.lower() and attempt + 1 >= SEALED_ATTEMPTS
                # A standby whose leader has just died sends us to that one: another will be chosen.
                waits = answer.status == 307 and bool(self.indexes.newest)
                if answer.ok or sealed or not (waits or retryable(answer, idempotent=idempotent)):
                    return answer
                wait = retry_after(answer)
            elif isinstance(failure, Lost) and not idempotent:
                raise failure
            # Full jitter, so that many clients that failed together do not come back together.
            pause = wait + random.uniform(0.3, 1) * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)  # noqa: S311
            if self._closed.is_set() or time.monotonic() + pause > deadline:
                if answer is not None:
                    return answer
                assert failure is not None
                raise failure
            self._closed.wait(pause)
            attempt += 1

    def _once(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        token: HiddenText | None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Answer | None, ServiceUnavailable | None]:
        """One HTTP request: its answer, or how it failed."""
        if self._closed.is_set():
            raise SealedHealthError("This connection to the Vault is closed.", next="Open the dataset again.")
        sending = dict(headers or {})
        if self.indexes.newest:
            sending |= {INDEX: self.indexes.newest, "X-Vault-Inconsistent": "forward-active-node"}
        begun = time.monotonic()
        failure: ServiceUnavailable | None = None
        answer: Answer | None = None
        sent = received = 0
        try:
            done = self._wire.exchange(method, path, body, token=token, headers=sending)
            answer, sent, received = done.answer, done.sent, done.received
            self.clock.heard(answer.headers.get("date", ""), begun, time.monotonic())
            self.indexes.remember(answer.headers.get(INDEX.lower(), ""))
        except (NotSent, Lost) as error:
            failure = error
        finally:
            with self._lock:
                self._calls[shape(method, path)] += 1
            if self.observe is not None:
                status, number = (answer.status, answer.request_id) if answer is not None else (0, "")
                self.observe(Call(method, path, status, number, sent, received))
        return answer, failure

    # -- token ------------------------------------------------------------------------------

    def _token(self) -> HiddenText:
        with self._tokens:
            if self._credential is not None and time.monotonic() >= self._renew_at:
                self._renew()
            if self._credential is None:
                begun = time.monotonic()
                credential = self._login.login(self._ask)
                if not credential.known:
                    credential = replace(self._looked_up(credential.token), known=False)
                self._adopt(credential)
                # A login makes a service token, which only the active node can write.
                if credential.known and credential.renewable and self._login_had_index:
                    self._fresh_since = max(self._fresh_since, begun)
            assert self._credential is not None
            return self._credential.token

    def _ask(self, path: str, body: Mapping[str, Any], *, token: HiddenText | None = None) -> Answer:
        # Logging in may use up a secret: it is not sent again when it may have been carried out.
        answer = self._persistently("POST", path, body, token, idempotent=False)
        self._login_had_index = INDEX.lower() in answer.headers
        warnings = warnings_of(answer)
        if warnings:
            raise IntegrityError(f"The Vault answers the login with a warning: {shown(warnings[0])}")
        return answer

    def _looked_up(self, token: HiddenText) -> Credential:
        answer = self._persistently("GET", "auth/token/lookup-self", None, token, idempotent=True)
        if answer.status == 403:
            raise AccessDenied(
                "The token that was given is not valid: expired, revoked, used up, or not for this Vault.",
                safe="Nothing was changed.",
                next="Name a fresh token.",
            )
        if not answer.ok:
            raise error_of(answer, "looking up the token")
        ttl = answer.data.get("ttl")
        return Credential(token, float(ttl) if isinstance(ttl, int) else 0.0, bool(answer.data.get("renewable")))

    def _adopt(self, credential: Credential) -> None:
        now = time.monotonic()
        self._credential = credential
        self._dies_at = now + credential.lease_s if credential.lease_s else float("inf")
        again = credential.renewable or self._login.repeatable
        self._renew_at = now + credential.lease_s * RENEW_AT if credential.lease_s and again else float("inf")
        if self._renew_at < float("inf") and (self._keeper is None or not self._keeper.is_alive()):
            self._keeper = threading.Thread(
                target=_keep_alive, args=(weakref.ref(self), self._closed), name="sealedhealth-vault", daemon=True
            )
            self._keeper.start()

    def renew_when_due(self) -> float:
        """Renew the token if it is time; seconds until it will be. For the thread that keeps it alive."""
        if self._renew_at - time.monotonic() <= 0:
            with contextlib.suppress(SealedHealthError):  # whoever asks next gets the error
                self._token()
        return self._renew_at - time.monotonic()

    def _renew(self) -> None:
        """Renew the token, or drop it so that the next user logs in again."""
        credential = self._credential
        assert credential is not None
        if credential.renewable:
            begun = time.monotonic()
            answer, _ = self._once("POST", "auth/token/renew-self", {}, credential.token)
            granted = answer.body.get("auth") if answer is not None and answer.ok else None
            if isinstance(granted, dict):
                lease = float(granted.get("lease_duration") or 0)
                if self.indexes.newest and answer is not None and INDEX.lower() in answer.headers:
                    self._fresh_since = max(self._fresh_since, begun)
                if lease > credential.lease_s / 2 or not self._login.repeatable:
                    # Near the end of its longest life a renewal gives less each time: there is no point in going on.
                    renewable = lease > credential.lease_s / 10
                    self._adopt(Credential(credential.token, lease or credential.lease_s, renewable))
                    return
            elif (answer is None or answer.status != 403) and time.monotonic() < self._dies_at:
                self._renew_at = time.monotonic() + min(5.0, credential.lease_s / 20)  # it still works: try later
                return
        if self._login.repeatable:
            self._credential = None
        else:
            self._renew_at = float("inf")  # nothing can be done: use it while it works

    def _token_is_dead(self, token: HiddenText) -> bool:
        """Whether a 403 was about the token itself, and not about what it may do."""
        answer = self._persistently("GET", "auth/token/lookup-self", None, token, idempotent=True)
        return answer.status == 403

    def _drop(self, token: HiddenText, doing: str) -> None:
        """Forget a dead token, so that the next user logs in again. Raises ``AccessDenied`` when nobody can."""
        if not self._login.repeatable:
            raise AccessDenied(
                f"The token that was used for {doing} has expired, was revoked, or is used up.",
                safe="What is committed stays committed; nothing was changed by this request.",
                next="Log in again: name a fresh token, or a login in the profile that can be repeated.",
            )
        with self._tokens:
            if self._credential is not None and self._credential.token == token:
                self._credential = None

    # -- freshness ----------------------------------------------------------------------------

    def _highly_available(self) -> bool:
        if self._ha is None:
            answer = self._persistently("GET", "sys/leader", None, None, idempotent=True)
            if not answer.ok:
                raise error_of(answer, "asking for the leader")
            several = answer.body.get("ha_enabled") is not False
            self._ha = bool(self.indexes.newest) or (several and not self._standbys_only_forward())
        return self._ha

    def _standbys_only_forward(self) -> bool:
        """Whether this is HashiCorp's community edition, whose standbys answer nothing themselves.

        It tells no index and needs none. Known from its documentation only: we could not run one.
        """
        answer, _ = self._once("GET", "sys/health", None, None)  # of a standby it is no success: the body counts
        return answer is not None and answer.body.get("enterprise") is False

    def _fetch_index(self) -> None:
        """Have the active node write something small: its answer carries the index of that moment."""
        begun = time.monotonic()
        token = self._token()
        credential = self._credential
        answer: Answer | None = None
        with contextlib.suppress(Lost):  # a node that waits for a leader which does not answer it
            if credential is not None and credential.renewable:
                answer = self._persistently("POST", "auth/token/renew-self", {}, token, idempotent=True)
            else:  # a root or batch token cannot be renewed; the default policy lets every token wrap
                answer = self._wrap_nothing(token)
        if answer is not None and answer.ok and INDEX.lower() in answer.headers:
            self._fresh_since = max(self._fresh_since, begun)
            return
        if answer is not None and answer.status == 403 and self._token_is_dead(token):
            self._drop(token, "a fresh index")
            self._token()
            if self._fresh_since >= begun:
                return  # a login gives an index too
        if answer is not None and not (answer.ok or lags(answer) or leaderless(answer) or answer.status == 403):
            raise error_of(answer, "asking for a fresh index")
        raise StaleReplica(
            "The Vault's node cannot show that it is in touch with its cluster.",
            safe="Its answers were not used.",
            next="Look at the state of the cluster, and whether this identity may renew its own token."
            " A cluster of OpenBao before 2.7 cannot show it at all.",
        )

    def _wrap_nothing(self, token: HiddenText) -> Answer:
        answer, failure = self._once("POST", "sys/wrapping/wrap", {"a": "b"}, token, {"X-Vault-Wrap-TTL": "1s"})
        if answer is None:
            assert failure is not None
            raise failure
        return answer


def _keep_alive(reference: weakref.ref[VaultClient], closed: threading.Event) -> None:
    """Renew in time while nobody asks for anything. Ends with the client, or when there is nothing to renew."""
    wait = 0.0
    while wait < float("inf") and not closed.wait(min(max(wait, 0.2), 5.0)):
        client = reference()
        if client is None:
            return
        wait = client.renew_when_due()
        del client  # so that it can go while this thread sleeps
