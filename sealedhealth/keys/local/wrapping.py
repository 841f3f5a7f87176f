"""How the local service wraps a data key.

Wrapped key = Cobblestone-256 (C2SP chunked encryption) of the 32-byte data key, with::

    key     = HKDF-Expand-SHA512(KEK version key, "sealedhealth/v1/local-wrap" || 0 || binding, 32)
    context = binding

The binding is that of the dataset and compartment, so a wrap opens nowhere else. Cobblestone
draws a random 24-byte salt and commits to its key: there is no nonce of ours to get wrong,
and no ciphertext opens under two keys.
"""

from __future__ import annotations

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from sealedhealth.keys.base import DATA_KEY_SIZE, DataKey, Kek
from sealedhealth.keys.secret import Secret

__all__ = ["WRAPPED_SIZE", "unwrap", "wrap"]

#: salt, commitment, data key, tag
WRAPPED_SIZE = 24 + 32 + DATA_KEY_SIZE + 16


def wrap(version_key: Secret, kek: Kek, data_key: DataKey) -> bytes:
    """Wrap *data_key* under one version of *kek*."""
    encryptor = Cobblestone256Encryptor(_wrapping_key(version_key, kek), kek.binding)
    return encryptor.update(data_key.expose()) + encryptor.finalize()


def unwrap(version_key: Secret, kek: Kek, ciphertext: bytes) -> DataKey | None:
    """The data key, or ``None`` when *ciphertext* was not made by this version of *kek*, or was altered."""
    if len(ciphertext) != WRAPPED_SIZE:
        return None
    decryptor = Cobblestone256Decryptor(_wrapping_key(version_key, kek), kek.binding)
    try:
        return DataKey(decryptor.update(ciphertext) + decryptor.finalize())
    except InvalidTag:
        return None


def _wrapping_key(version_key: Secret, kek: Kek) -> bytes:
    info = b"sealedhealth/v1/local-wrap\0" + kek.binding
    return HKDFExpand(SHA512(), 32, info).derive(version_key.expose())
