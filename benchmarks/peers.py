"""Other libraries that seal streams: each by its own interface, from one binary file to another."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

PIECE = 1 << 20
Copy = Callable[[BinaryIO, BinaryIO], object]


@dataclass(frozen=True)
class Peer:
    """One library; ``part`` is the share of the data that it gets, less than one for those that are slow."""

    name: str
    encrypt: Copy
    decrypt: Copy
    part: float = 1.0


def tink() -> Peer:
    """Tink's streaming AEAD, AES-256-GCM in segments of 1 MiB."""
    from tink import new_keyset_handle, streaming_aead

    streaming_aead.register()
    handle = new_keyset_handle(streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB)
    primitive = handle.primitive(streaming_aead.StreamingAead)

    def encrypt(source: BinaryIO, sink: BinaryIO) -> None:
        with primitive.new_encrypting_stream(sink, b"") as stream:
            while piece := source.read(PIECE):
                stream.write(piece)

    def decrypt(source: BinaryIO, sink: BinaryIO) -> None:
        with primitive.new_decrypting_stream(source, b"") as stream:
            while piece := stream.read(PIECE):
                sink.write(piece)

    return Peer("Tink streaming, 1 MiB", encrypt, decrypt)


def age() -> Peer:
    """The age format by pyrage: X25519 and ChaCha20-Poly1305."""
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    recipients = [identity.to_public()]
    return Peer(
        "age (pyrage)",
        lambda source, sink: pyrage.encrypt_io(source, sink, recipients),
        lambda source, sink: pyrage.decrypt_io(source, sink, [identity]),
    )


def crypt4gh() -> Peer:
    """Crypt4GH's reference implementation: X25519 and ChaCha20-Poly1305."""
    from crypt4gh import lib
    from nacl.public import PrivateKey

    private = PrivateKey.generate()
    secret, public = bytes(private), bytes(private.public_key)
    return Peer(
        "crypt4gh",
        lambda source, sink: lib.encrypt([(0, secret, public)], source, sink),
        lambda source, sink: lib.decrypt([(0, secret, None)], source, sink),
    )


def aws(frame: int, shown: str, part: float = 1.0) -> Peer:
    """AWS Encryption SDK with a raw AES key and its committing suite, without the signature at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aws_encryption_sdk import EncryptionSDKClient
        from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy

        client = EncryptionSDKClient(commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
        provider = _aws_provider()
    suite = Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY

    def copy(stream: Any, sink: BinaryIO) -> None:
        with stream:
            while piece := stream.read(PIECE):
                sink.write(piece)

    return Peer(
        f"AWS Encryption SDK, {shown} frames",
        lambda source, sink: copy(
            client.stream(mode="e", source=source, key_provider=provider, frame_length=frame, algorithm=suite), sink
        ),
        lambda source, sink: copy(client.stream(mode="d", source=source, key_provider=provider), sink),
        part,
    )


def _aws_provider() -> Any:
    from aws_encryption_sdk.identifiers import EncryptionKeyType, WrappingAlgorithm
    from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
    from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider

    wrapping_key = WrappingKey(
        WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING, os.urandom(32), EncryptionKeyType.SYMMETRIC
    )

    class Provider(RawMasterKeyProvider):
        provider_id = "benchmark"

        def _get_raw_key(self, key_id: bytes) -> WrappingKey:
            del key_id
            return wrapping_key

    provider = Provider()
    provider.add_master_key(b"key")
    return provider


def all_peers() -> list[Peer]:
    """Every peer, at its usual settings."""
    return [tink(), age(), crypt4gh(), aws(1 << 20, "1 MiB"), aws(4096, "4 KiB", 1 / 16)]
