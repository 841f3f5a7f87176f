"""The keyring: data keys at hand, fetched in batches, kept for a while, then wiped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Self

from sealedhealth.errors import InvalidInput, SealedHealthError, ServiceUnavailable, WrongKey
from sealedhealth.keys.base import DataKey, Kek, KeyService, WrappedKey

__all__ = ["Keyring", "SealingKey"]

DEFAULT_TTL = timedelta(minutes=15)
MAX_SEALED_BYTES = 2**42
MAX_SEALING_AGE = timedelta(hours=24)


class SealingKey:
    """A fresh data key that seals the objects of one transaction, bounded in bytes and age.

    Report what it sealed to :meth:`charge`, and look at :attr:`exhausted` before each object:
    when true, close this key and ask the keyring for another. Only whole objects are counted
    against the bound, so the last one may run past it; the default leaves ample room for that
    below what the cipher allows. :meth:`close` wipes the key, at commit at the latest.

    Parameters
    ----------
    data_key, wrapped:
        The key, and the same key wrapped by its key-encryption key.
    max_bytes:
        Bytes after which it is exhausted.
    max_age:
        Seconds after which it is exhausted.
    clock:
        Monotonic seconds.
    """

    __slots__ = ("_clock", "_expires", "_lock", "_max_bytes", "_sealed", "data_key", "wrapped")

    def __init__(
        self,
        data_key: DataKey,
        wrapped: WrappedKey,
        *,
        max_bytes: int = MAX_SEALED_BYTES,
        max_age: float = MAX_SEALING_AGE.total_seconds(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.data_key = data_key
        self.wrapped = wrapped
        self._max_bytes = max_bytes
        self._clock = clock
        self._expires = clock() + max_age
        self._sealed = 0
        self._lock = threading.Lock()

    @property
    def key_id(self) -> bytes:
        """16 bytes, derived from the data key."""
        return self.data_key.key_id

    @property
    def sealed_bytes(self) -> int:
        """Plaintext bytes charged so far."""
        return self._sealed

    @property
    def exhausted(self) -> bool:
        """Whether no further object may be sealed under this key: bytes or age used up, or closed."""
        return self.data_key.closed or self._sealed >= self._max_bytes or self._clock() >= self._expires

    def charge(self, n_bytes: int) -> None:
        """Count *n_bytes* of sealed plaintext. Raises ``InvalidInput`` when negative."""
        if n_bytes < 0:
            raise InvalidInput("Sealed bytes cannot be negative.")
        with self._lock:
            self._sealed += n_bytes

    def close(self) -> None:
        """Discard the key: wiped from memory, only the wrapped one remains."""
        self.data_key.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SealingKey {self.data_key!r} sealed={self._sealed}>"


class Keyring:
    """Data keys of one identity, kept in memory for a bounded time. Safe to share among threads.

    A key is dropped *ttl* after it was fetched, however often it is used: a right that was
    withdrawn, or a key that was destroyed, stops working here after at most that time (call
    :meth:`clear` to forget at once). A dropped key is wiped as soon as nobody uses it any more;
    :meth:`clear` and :meth:`close` wipe whatever is in use. Expiry is looked at whenever the
    keyring is used: there is no timer behind it.

    Parameters
    ----------
    service:
        Where keys come from.
    ttl:
        How long a fetched key is kept; zero fetches every time.
    max_sealing_bytes, max_sealing_age:
        Bounds of the keys that :meth:`sealing_key` gives.
    clock:
        Monotonic seconds.
    """

    def __init__(
        self,
        service: KeyService,
        *,
        ttl: timedelta = DEFAULT_TTL,
        max_sealing_bytes: int = MAX_SEALED_BYTES,
        max_sealing_age: timedelta = MAX_SEALING_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._ttl = ttl.total_seconds()
        self._max_sealing_bytes = max_sealing_bytes
        self._max_sealing_age = max_sealing_age.total_seconds()
        self._clock = clock
        # By key-encryption key as well: a key fetched for one compartment must not stand in
        # for a wrap that claims to belong to another.
        self._cache: dict[tuple[Kek, bytes], tuple[float, DataKey]] = {}
        self._calls = 0
        self._closed = False
        self._lock = threading.Lock()  # guards the fields above; never held during a request
        self._fetching = threading.Lock()  # one thread fetches; others find its keys in the cache

    @property
    def calls(self) -> int:
        """Requests made to the key service through this keyring."""
        return self._calls

    def get(self, wrapped: Iterable[WrappedKey]) -> dict[bytes, DataKey]:
        """Open wrapped keys, by key id: those not at hand are fetched in as few calls as possible.

        Of several wraps of one key the newest version counts. Raises what
        :meth:`KeyService.unwrap` raises, ``WrongKey`` when a key is not the one that its
        wrap names, and ``ServiceUnavailable`` when the service does not answer one key for
        each wrap.
        """
        wanted: dict[tuple[Kek, bytes], WrappedKey] = {}
        for item in wrapped:
            known = wanted.setdefault((item.kek, item.key_id), item)
            if item.version > known.version:
                wanted[item.kek, item.key_id] = item
        found = self._cached(wanted)
        if len(found) < len(wanted):
            with self._fetching:
                found |= self._cached(wanted.keys() - found.keys())
                missing = [item for key, item in wanted.items() if key not in found]
                found |= self._fetch(missing)
        return {key_id: found[kek, key_id] for kek, key_id in wanted}

    def sealing_key(self, kek: Kek, *, max_age_s: float | None = None) -> SealingKey:
        """A new data key under *kek*: one call. It is not kept here; whoever asks closes it.

        *max_age_s* shortens the time in seconds until it is exhausted.

        Raises what :meth:`KeyService.generate` raises, and ``WrongKey`` when the wrap that
        comes with the key names another one.
        """
        self._count()
        data_key, wrapped = self._service.generate(kek)
        if wrapped.key_id != data_key.key_id or wrapped.kek != kek:
            data_key.close()
            raise _wrong_key(wrapped)
        return SealingKey(
            data_key,
            wrapped,
            max_bytes=self._max_sealing_bytes,
            max_age=self._max_sealing_age if max_age_s is None else min(max_age_s, self._max_sealing_age),
            clock=self._clock,
        )

    def clear(self) -> None:
        """Wipe every key, also those that callers still hold. Further ones can be fetched."""
        with self._lock:
            for _, key in self._cache.values():
                key.close()
            self._cache.clear()

    def close(self) -> None:
        """Wipe every key and refuse further use."""
        with self._lock:
            self._closed = True
        self.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Keyring keys={len(self._cache)} calls={self._calls}>"

    def _cached(self, wanted: Iterable[tuple[Kek, bytes]]) -> dict[tuple[Kek, bytes], DataKey]:
        now = self._clock()
        with self._lock:
            self._refuse_when_closed()
            for place in [place for place, (expires, _) in self._cache.items() if expires <= now]:
                # Not closed: another thread may be about to use it. It is wiped with its last user.
                del self._cache[place]
            return {place: self._cache[place][1] for place in wanted if place in self._cache}

    def _fetch(self, missing: Sequence[WrappedKey]) -> dict[tuple[Kek, bytes], DataKey]:
        size = max(1, self._service.capabilities().max_batch)
        fetched: dict[tuple[Kek, bytes], DataKey] = {}
        for start in range(0, len(missing), size):
            batch = missing[start : start + size]
            self._count()
            keys = self._service.unwrap(batch)
            _check(batch, keys)
            found = {(item.kek, item.key_id): key for item, key in zip(batch, keys, strict=True)}
            with self._lock:
                self._refuse_when_closed()  # closed meanwhile: nothing may be left behind in the cache
                expires = self._clock() + self._ttl
                self._cache |= {place: (expires, key) for place, key in found.items()}
            fetched |= found
        return fetched

    def _count(self) -> None:
        with self._lock:
            self._refuse_when_closed()
            self._calls += 1

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise SealedHealthError("This keyring is closed.", next="Open the dataset again.")


def _check(batch: Sequence[WrappedKey], keys: Sequence[DataKey]) -> None:
    """Raise, with *keys* wiped, unless they are the keys that *batch* names, in order."""
    wrong = next((item for item, key in zip(batch, keys, strict=False) if key.key_id != item.key_id), None)
    if wrong is None and len(keys) == len(batch):
        return
    for key in keys:
        key.close()
    if wrong is not None:
        raise _wrong_key(wrong)
    raise ServiceUnavailable(
        f"The key service answered {len(keys)} keys when it was asked for {len(batch)}.",
        safe="None of them was used.",
        next="Check which service answers at this address.",
    )


def _wrong_key(wrapped: WrappedKey) -> WrongKey:
    return WrongKey(
        f"The key that the service returned is not data key {wrapped.key_id.hex()}.",
        safe="Nothing was opened or sealed with it.",
        next="Verify the dataset: its log may have been altered.",
    )
