"""A key service that fails at any call, before or after it did what it was asked for.

Each operation runs in a child in which one call of the key service, or every call from one
on, ends in an error; in half of the cases only the answer is lost.  Either the operation
reports an error and has not happened, or it has and reports none; only when the service also
refuses to say what became of a lost request does the error leave that open, in plain words.
"""

from contextlib import contextmanager

import crashes
import operations
import pytest

from sealedhealth.errors import AccessDenied, AnchorTaken, SealedHealthError, ServiceUnavailable
from sealedhealth.keys import LocalKeyService
from sealedhealth.session import maintenance

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.timeout(1200),
]

CALLS = (
    *("now", "generate", "unwrap", "rewrap", "rotate", "retire", "versions", "author", "sign"),
    *("create_anchor", "read_anchor", "lookup", "register"),
)
SAMPLE = 3  #: calls of an operation in the short form
ERRORS = (ServiceUnavailable, AccessDenied)


def destroy(_, session):
    """Destroy the data key of one commit."""
    keys = session.engine.loaded.state.keys.items()
    maintenance.destroy_keys(session, [key_id for key_id, record in keys if record.sequence == 3])


OPERATIONS = {**operations.OPERATIONS, "destroy": operations.Operation(destroy, {"doomed.csv": None})}
del OPERATIONS["put-batch"]


class Calls:
    """Counts the calls of every local key service in this process, and lets some of them fail."""

    def __init__(self, fails=lambda _: False, error=ServiceUnavailable, *, lost=False):
        self.log = []
        self._fails = fails
        self._error = error
        self._lost = lost

    @contextmanager
    def watching(self):
        """Watch every call until the end of the block."""
        originals = {name: getattr(LocalKeyService, name) for name in CALLS}
        for name, original in originals.items():
            setattr(LocalKeyService, name, self._watched(name, original))
        try:
            yield self
        finally:
            for name, original in originals.items():
                setattr(LocalKeyService, name, original)

    def _watched(self, name, original):
        def call(service, *arguments, **options):
            number = len(self.log)
            self.log.append(name)
            if not self._fails(number):
                return original(service, *arguments, **options)
            if self._lost:
                original(service, *arguments, **options)
            raise self._error("The key service is on fire.", safe="Everything.", next="Wait.")

        return call


def attempt(world, operation, calls):
    """Run an operation in this process with failing calls, then once more with a service that works."""
    after = operation.outcome()
    session = world.open()
    error = None
    try:
        with calls.watching():
            operation.run(world, session)
    except SealedHealthError as raised:
        error = raised
    found = crashes.contents(world.open())
    if error is None:
        assert found == after, f"no error, but {crashes.summary(found)}"
        return None
    assert isinstance(error, (*ERRORS, AnchorTaken)), repr(error)
    assert error.safe
    assert error.next
    if operation.run is not destroy and found != operations.BEFORE:
        assert "either happened" in error.safe, f"{error!r}, but {crashes.summary(found)}"
        assert found == after
        return "unknown"
    operation.run(world, world.open())
    assert crashes.contents(world.open()) == after
    return type(error).__name__


@pytest.fixture(scope="module")
def world():
    """A machine with a dataset of several commits."""
    with crashes.new_world() as world, crashes.small_streams():
        crashes.child(lambda: operations.build(world))
        world.keep()
        yield world


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer-lost"])
@pytest.mark.parametrize("always", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_failing_key_service(world, name, always, lost, long_walk, record_property):
    """One error of this package or none, and what it says is true; a second try works in the same process."""
    operation = OPERATIONS[name]
    world.reset()

    def all_calls():
        session = world.open()
        with Calls().watching() as calls:
            operation.run(world, session)
        return calls.log

    _, log = crashes.child(all_calls)
    count = len(log) if long_walk else min(SAMPLE, len(log))
    steps = sorted({round(index * (len(log) - 1) / (count - 1)) for index in range(count)})
    # Refusals are not expected to have an effect; if the one that matters has one, all the same nothing may be lost.
    cases = [(step, ServiceUnavailable if lost else ERRORS[step % 2]) for step in steps]
    cases += [(log.index("create_anchor"), error) for error in ERRORS]
    kinds = set()
    verdict = [operation.outcome()]
    for step, error in cases:
        fails = (lambda now, step=step: now >= step) if always else (lambda now, step=step: now == step)
        world.reset()
        calls = Calls(fails, error, lost=lost)
        try:
            kinds.add(crashes.child(lambda calls=calls: attempt(world, operation, calls))[1])
            crashes.child(lambda: crashes.judge(world, verdict, tags={"baseline": operations.BASELINE}))
        except crashes.Died as died:
            pytest.fail(f"with a failing {log[step]}, call {step} of {len(log)}:\n{died}")
    record_property("cases", len(cases))
    assert kinds - {None}
