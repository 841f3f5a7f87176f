"""Key material in memory."""

import copy
import pickle

import pytest

from sealedhealth.errors import InvalidInput, SealedHealthError
from sealedhealth.format import Kind, data_key_id, object_key
from sealedhealth.keys import DataKey, Kek
from sealedhealth.keys.secret import HiddenBytes, Secret

KEY = bytes(range(32))


@pytest.fixture(params=[Secret, DataKey])
def secret(request):
    """A secret of each class."""
    return request.param(KEY)


def test_expose(secret):
    """The bare bytes come back, until it is closed."""
    assert secret.expose() == KEY
    assert not secret.closed
    secret.close()
    secret.close()
    assert secret.closed
    with pytest.raises(SealedHealthError, match="wiped"):
        secret.expose()


def test_close_wipes(secret):
    """Closing overwrites the memory, not only the reference."""
    memory = secret._key
    secret.close()
    assert memory == bytes(32)


def test_dropping_wipes():
    """The memory is overwritten when the last reference goes."""
    secret = Secret(KEY)
    memory = secret._key
    del secret
    assert memory == bytes(32)


def test_context_wipes(secret):
    """Leaving the context closes it."""
    with secret:
        assert secret.expose() == KEY
    assert secret.closed


def test_is_hidden(secret):
    """Nothing that prints an object shows the key."""
    for shown in (repr(secret), str(secret), f"{secret}", repr([secret]), repr({"key": secret})):
        assert "redacted" in shown
        assert KEY.hex() not in shown
        assert repr(KEY)[2:-1] not in shown
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize(
    "leak",
    [copy.copy, copy.deepcopy, lambda it: it.__getstate__(), lambda it: it.__reduce__(), lambda it: it.__reduce_ex__(2)]
    + [lambda it, protocol=protocol: pickle.dumps(it, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)],
)
def test_is_not_copied(secret, leak):
    """Neither copy nor pickle gets at it."""
    with pytest.raises(TypeError, match="copied or pickled"):
        leak(secret)


def test_source_is_not_aliased():
    """Changing what it was made from does not change it."""
    source = bytearray(KEY)
    secret = Secret(source)
    source[:] = bytes(32)
    assert secret.expose() == KEY


@pytest.mark.parametrize("size", [0, 31, 33])
def test_data_key_size(size):
    """A data key has 32 bytes."""
    with pytest.raises(ValueError, match="32 bytes"):
        DataKey(bytes(size))


def test_data_key_derives():
    """The id and object keys are those of the format."""
    key = DataKey(KEY)
    assert key.key_id == data_key_id(KEY)
    assert key.object_key(Kind.OBJECT, b"o" * 16) == object_key(KEY, Kind.OBJECT, b"o" * 16)
    key.close()
    assert key.key_id == data_key_id(KEY)
    with pytest.raises(SealedHealthError):
        key.object_key(Kind.OBJECT, b"o" * 16)


def test_hidden_bytes():
    """Hidden bytes are bytes, and do not show."""
    hidden = HiddenBytes(KEY)
    assert hidden == KEY
    assert repr(hidden) == str(hidden) == "<32 bytes redacted>"


@pytest.mark.parametrize("ids", [(b"", b"c" * 32), (b"d" * 15, b"c" * 17), (b"d" * 17, b"c" * 16)])
def test_kek_ids(ids):
    """Ids of another length, which could share a binding with another pair, are refused."""
    with pytest.raises(InvalidInput):
        Kek(*ids)


def test_kek_bindings_differ():
    """Dataset and compartment are not interchangeable."""
    one, two = b"1" * 16, b"2" * 16
    assert len({Kek(*pair).binding for pair in ((one, one), (one, two), (two, one), (two, two))}) == 4
    assert Kek(one, two).name == f"sh-{one.hex()}-{two.hex()}"
