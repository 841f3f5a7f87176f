"""No key and no passphrase shows where programs and people look: errors, tracebacks, objects."""

import errno
import gc
import os
import traceback
from dataclasses import replace

import pytest

from sealedhealth.errors import SealedHealthError, WrongKey
from sealedhealth.keys import DataKey, Kek, Keyring, LocalKeyService
from sealedhealth.keys.secret import Secret

PASSPHRASE = "correct horse battery staple"
WRONG = "incorrect horse battery staple"


@pytest.fixture
def secrets(service, kek):
    """Every secret of the keystore, with one data key and its wrap."""
    service.create_author("author")
    key, wrapped = service.generate(kek)
    found = [key.expose(), service._keys.kek(kek).newest.expose(), service._keys.author("author").expose()]
    if getattr(service._protection, "_master", None) is not None:
        found.append(service._protection._master.expose())
    return key, wrapped, found


def spellings(secret):
    """How bytes could show."""
    return [
        secret.hex(),
        repr(secret)[2:-1],
        repr(bytearray(secret))[12:-2],
        str(int.from_bytes(secret, "big")),
        str(list(secret)),
    ]


def check(text, secrets):
    """No secret in *text*."""
    for secret in secrets:
        for spelling in spellings(secret):
            assert spelling not in text
    for passphrase in ("a long passphrase", PASSPHRASE, WRONG):
        assert passphrase not in text


def shown(error):
    """Everything that a traceback with local variables shows, below the frame of the test."""
    error.__traceback__ = error.__traceback__.tb_next
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    lines = list(report.format())
    for hidden in (error.__cause__, error.__context__):  # also what is suppressed
        if hidden is not None:
            lines += traceback.TracebackException.from_exception(hidden, capture_locals=True).format()
    return "".join(lines) + repr(error) + str(error) + repr(vars(error)) + repr(error.args)


def flipped(content):
    """*content* with its last byte altered."""
    return content[:-1] + bytes([content[-1] ^ 1])


def failing(use):
    """The error that *use* raises."""
    try:
        use()
    except SealedHealthError as error:
        return error
    pytest.fail("nothing was raised")


def test_the_check_notices(secrets):
    """A key in a local variable of a function that raises would be found."""

    def careless(key):
        bare = key.expose()
        raise SealedHealthError(f"{len(bare)} bytes")

    key, _, found = secrets
    with pytest.raises(AssertionError):
        check(shown(failing(lambda: careless(key))), found)


def test_objects(service, kek, secrets):
    """Nothing that a service consists of shows a secret."""
    key, wrapped, found = secrets
    text = repr([service, key, wrapped, service._keys.kek(kek), vars(service), vars(service._keys)])
    text += repr(vars(service._protection)) + repr(service._settings)
    check(text, found)


def test_errors_of_damage(service, keystore, kek, secrets):
    """Errors about altered wraps and files show no secret."""
    _, wrapped, found = secrets
    uses = [
        lambda: service.unwrap([wrapped, replace(wrapped, ciphertext=flipped(wrapped.ciphertext))]),
        lambda: service.rewrap([wrapped, replace(wrapped, ciphertext=b"")]),
        lambda: service.rewrap([replace(wrapped, key_id=b"x" * 16)]),
        lambda: service.unwrap([replace(wrapped, version=9)]),
        lambda: service.create(kek),
        lambda: service.create_author("author"),
        lambda: service.retire(kek, 9),
        lambda: Keyring(service).get([replace(wrapped, key_id=b"x" * 16)]),
    ]
    for use in uses:
        check(shown(failing(use)), found)
    path = keystore / "keks" / kek.name
    content = path.read_bytes()
    for altered in (flipped(content), content + b"x"):
        path.write_bytes(altered)
        check(shown(failing(lambda: service.generate(kek))), found)
    path = keystore / "authors" / "author"
    path.write_bytes(path.read_bytes() + b"x")
    check(shown(failing(lambda: service.sign("author", b""))), found)


@pytest.mark.parametrize("call", ["open", "write", "fsync", "link", "replace"])
def test_errors_of_the_disk(service, kek, secrets, monkeypatch, call):
    """Errors in the middle of writing keys show no secret."""
    _, _, found = secrets
    made = []
    real_open = os.open

    def fail(*arguments, **_):
        if call == "open" and not arguments[1] & os.O_CREAT:
            return real_open(*arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Secret, "__init__", noting(Secret.__init__, made))
    monkeypatch.setattr(os, call, fail)
    uses = [lambda: service.create(Kek(b"x" * 16, b"x" * 16)), lambda: service.create_author("another")]
    uses = [lambda: service.rotate(kek)] if call == "replace" else uses
    for use in uses:
        check(shown(failing(use)), found + made)
    assert made


def noting(original, made):
    """A constructor that notes what it was given."""

    def constructor(self, key):
        if len(key) >= 32:
            made.append(bytes(key))
        original(self, key)

    return constructor


def test_wrong_passphrase(tmp_path):
    """A wrong passphrase shows neither itself, nor the right one, nor what was made of them."""
    kek = Kek(b"d" * 16, b"c" * 16)
    cheap = {"opslimit": 1, "memlimit": 8192}
    service = LocalKeyService.init(tmp_path / "k", passphrase=lambda: PASSPHRASE, **cheap)
    service.create(kek)
    for source in (lambda: WRONG, WRONG.encode):
        wrong = LocalKeyService.open(tmp_path / "k", passphrase=source)
        text = shown(failing(lambda wrong=wrong: wrong.generate(kek)))
        assert "WrongPassphrase" in text
        check(text, [])
    made = service._protection.unlock().expose()
    check(shown(failing(lambda: service.change_passphrase(lambda: ""))), [made])


def test_key_service_that_lies():
    """The error about a wrong key shows no key."""
    key = DataKey(bytes(range(32)))
    kek = Kek(b"d" * 16, b"c" * 16)

    class Lying:
        def generate(self, kek):
            from sealedhealth.keys import WrappedKey

            return key, WrappedKey(kek, b"x" * 16, 1, b"")

    error = failing(lambda: Keyring(Lying()).sealing_key(kek))
    assert isinstance(error, WrongKey)
    check(shown(error), [bytes(range(32))])


def test_closing_leaves_no_key_behind(service, kek, secrets):
    """After use, no object that Python still tracks holds a key in a Secret that is open."""
    service.generate(kek)[0].close()
    _, _, found = secrets
    service.close()
    gc.collect()
    bare = {bytes(it._key) for it in gc.get_objects() if isinstance(it, Secret) and it._key is not None}
    assert not bare & set(found[1:])
