"""A host that fails at some requests."""

from contextlib import contextmanager
from unittest import mock

from sealedhealth.stores import ObjectStore, StoreWriter


class FailingStore(ObjectStore):
    """Hands everything on to another store, and fails at some requests."""

    def __init__(self, inner):
        super().__init__(inner.fs, inner.root)
        self.inner = inner
        self.fails = lambda _: None
        self.lost = False
        self.log = []

    def _request(self, what, action):
        number = len(self.log)
        self.log.append(what)
        error = self.fails(number)
        if error is None:
            return action()
        if self.lost:
            action()
        raise error("The host is on fire.", safe="The last commit is untouched.", next="Wait.")

    def put_many(self, objects):
        return self._request("put", lambda: self.inner.put_many(objects))

    def writer(self, name, *, size_hint=None):
        return self._request("writer", lambda: FailingWriter(self, self.inner.writer(name, size_hint=size_hint)))

    def delete_many(self, names):
        names = list(names)
        return self._request("delete", lambda: self.inner.delete_many(names))

    def flush(self):
        return self._request("flush", self.inner.flush)

    def get_many(self, names, *, limit, missing_ok=False):
        return self._request("get", lambda: self.inner.get_many(names, limit=limit, missing_ok=missing_ok))

    def get_ranges(self, ranges):
        return self._request("ranges", lambda: self.inner.get_ranges(ranges))

    def list(self, prefix):
        return self._request("list", lambda: self.inner.list(prefix))


class FailingWriter(StoreWriter):
    """Fails where its store does."""

    def __init__(self, store, inner):
        self._store = store
        self._inner = inner

    def write(self, data):
        self._store._request("write", lambda: self._inner.write(data))

    def commit(self):
        self._store._request("commit", self._inner.commit)

    def discard(self):
        self._store._request("discard", self._inner.discard)


@contextmanager
def failing_host(session):
    """Put a store that can fail between a session and its host."""
    engine = session.engine
    store = FailingStore(engine.store)
    with mock.patch.object(engine, "store", store), mock.patch.object(engine.log, "store", store):
        yield store
