"""Disks that fail: one clear error, the last commit whole, and the same thing works once the disk does.

Each operation runs in a child in which a step that changes a disk fails, once or with every
step after it: disk full, permission denied, input/output error, timeout.  The disk is the
store's, the keystore's and the state directory's.  When the operation reports an error it
must not have happened; when it reports none it must have.
"""

import errno

import crashes
import operations
import pytest

from sealedhealth.errors import AccessDenied, SealedHealthError, ServiceUnavailable, StoreError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.timeout(1200),
]

#: Errors of the system, and what they may be called here. A keystore that is full, and a state directory that cannot
#: be written, are services that do not work.
ERRORS = {
    errno.ENOSPC: (StoreError, ServiceUnavailable),
    errno.EACCES: (AccessDenied, ServiceUnavailable),
    errno.EIO: (ServiceUnavailable,),
    errno.ETIMEDOUT: (ServiceUnavailable,),
}
SAMPLE = 5  #: steps of an operation in the short form
WALK = 130  #: and in the long one: all, but of the operation that repeats itself forty times


@pytest.fixture(scope="module")
def world():
    """A machine with a dataset of several commits."""
    with crashes.new_world() as world, crashes.small_streams():
        crashes.child(lambda: operations.build(world))
        world.keep()
        yield world


def attempt(world, operation, step, number, always):
    """Run an operation in this process with a failing step, then once more with a disk that works."""
    after = operation.outcome()
    session = world.open()
    watch = crashes.failing(step, number, always=always)
    error = None
    try:
        with watch.watching():
            operation.run(world, session)
    except SealedHealthError as raised:
        error = raised
    session = world.open()
    found = crashes.contents(session)
    if error is None:
        assert found == after, f"no error, but {crashes.summary(found)}"
    else:
        assert isinstance(error, ERRORS[number]), f"{error!r} for {errno.errorcode[number]}"
        assert error.safe, f"{error!r} does not say what is safe"
        assert error.next, f"{error!r} does not say what to do"
        assert found == operations.BEFORE, f"{error!r}, but {crashes.summary(found)}"
        operation.run(world, session)
        assert crashes.contents(world.open()) == after
    return error is not None, step < watch.steps


@pytest.mark.parametrize("always", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("name", operations.OPERATIONS)
def test_failing_disk(world, name, always, long_walk, record_property):
    """One error of this package or none, nothing half done, and a second try works in the same process."""
    operation = operations.OPERATIONS[name]
    world.reset()

    def steps_of_all():
        session = world.open()
        with crashes.Watch(names=crashes.FALLIBLE).watching() as watch:
            operation.run(world, session)
        return watch.steps

    _, total = crashes.child(steps_of_all)
    count = min(total, WALK if long_walk else SAMPLE)
    steps = sorted({round(index * (total - 1) / (count - 1)) for index in range(count)})
    cases = [(step, list(ERRORS)[(index + always) % len(ERRORS)]) for index, step in enumerate(steps)]
    failures = 0
    for step, number in cases:
        world.reset()
        where = f"with {errno.errorcode[number]} at step {step} of {total}"
        try:
            _, (failed, reached) = crashes.child(
                lambda step=step, number=number: attempt(world, operation, step, number, always)
            )
            assert reached or step > total - 10
            failures += failed
            crashes.child(lambda: crashes.judge(world, [operation.outcome()], tags={"baseline": operations.BASELINE}))
        except crashes.Died as died:
            pytest.fail(f"{where}:\n{died}")
    record_property("cases", len(cases))
    assert failures
