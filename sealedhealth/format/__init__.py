"""The sealed object: header, body and segment digests. Pure: no key service, no I/O.

``docs/format/objects.md`` is the specification.
"""

from sealedhealth.format.header import HEADER_SIZE, Header, Kind, data_key_id, object_key
from sealedhealth.format.layout import CHUNK_SIZE, SEGMENT_CHUNKS, SEGMENT_SIZE, plain_size, sealed_size

__all__ = [
    "CHUNK_SIZE",
    "HEADER_SIZE",
    "SEGMENT_CHUNKS",
    "SEGMENT_SIZE",
    "Header",
    "Kind",
    "data_key_id",
    "object_key",
    "plain_size",
    "sealed_size",
]
