"""The chunks of a Cobblestone body one by one, for random access.

Whole bodies go through the streaming classes of ``cryptography``. Those cannot start in
the middle, so this derives the same key and nonces (https://c2sp.org/chunked-encryption)
for the library's AES-GCM.  It only opens: sealing stays the library's alone.
"""

from __future__ import annotations

from typing import ClassVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from sealedhealth.errors import InvalidInput
from sealedhealth.format.header import KEY_SIZE
from sealedhealth.format.layout import COMMITMENT_SIZE

_NONCE_SIZE = 12


class ChunkOpener:
    """Opens any chunk of one body.

    A chunk that does not open raises ``InvalidTag`` of ``cryptography``: what that means
    depends on what was checked before, which the caller knows.
    """

    # One suite; spelt out for tests, which run the published vectors of its sister suites.
    prf: ClassVar[type[hashes.HashAlgorithm]] = hashes.SHA512
    aead: ClassVar[type[AESGCM]] = AESGCM
    aead_name: ClassVar[bytes] = b"AEAD_AES_256_GCM"
    key_size: ClassVar[int] = KEY_SIZE

    def __init__(self, key: bytes, salt: bytes, context: bytes) -> None:
        if len(key) != self.key_size:
            raise InvalidInput(f"An object key has {self.key_size} bytes.")
        info = b"c2sp.org/chunked-encryption@v1+" + self.aead_name + b"\0" + salt + context
        derived = HKDFExpand(self.prf(), self.key_size + _NONCE_SIZE + COMMITMENT_SIZE, info).derive(key)
        self._aead = self.aead(derived[: self.key_size])
        self._base_nonce = int.from_bytes(derived[self.key_size : -COMMITMENT_SIZE], "big")
        self.commitment = derived[-COMMITMENT_SIZE:]

    def _nonce(self, chunk: int) -> bytes:
        return (self._base_nonce ^ chunk).to_bytes(_NONCE_SIZE, "big")

    def open(self, chunk: int, sealed: memoryview) -> bytes:
        """The plaintext of a chunk."""
        return self._aead.decrypt(self._nonce(chunk), sealed, None)

    def open_into(self, chunk: int, sealed: memoryview, out: memoryview) -> None:
        """The same, written to *out*, which must have exactly the size of the plaintext."""
        self._aead.decrypt_into(self._nonce(chunk), sealed, None, out)
