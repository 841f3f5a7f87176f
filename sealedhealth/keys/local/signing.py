"""ECDSA P-384 with SHA-384, signatures as r and s of 48 bytes each (IEEE P1363)."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealedhealth.keys.secret import Secret

__all__ = ["generate", "public_key", "sign"]

SCALAR_SIZE = 48


def generate() -> Secret:
    """A new private key, as its scalar."""
    key = ec.generate_private_key(ec.SECP384R1())
    return Secret(key.private_numbers().private_value.to_bytes(SCALAR_SIZE, "big"))


def public_key(key: Secret) -> bytes:
    """The public point, uncompressed, X9.62: 97 bytes."""
    return _load(key).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def sign(key: Secret, message: bytes) -> bytes:
    """Sign *message*: 96 bytes."""
    r, s = decode_dss_signature(_load(key).sign(message, ec.ECDSA(SHA384())))
    return r.to_bytes(SCALAR_SIZE, "big") + s.to_bytes(SCALAR_SIZE, "big")


def _load(key: Secret) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(key.expose(), "big"), ec.SECP384R1())
