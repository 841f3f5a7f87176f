"""The sealed object: header, body and segment digests. Pure: no key service, no I/O.

``docs/format/objects.md`` is the specification.
"""

from sealedhealth.format.header import HEADER_SIZE, Header, Kind, data_key_id, object_key
from sealedhealth.format.layout import CHUNK_SIZE, SEGMENT_CHUNKS, SEGMENT_SIZE, Layout, plain_size, sealed_size
from sealedhealth.format.opening import Opener, open_sealed
from sealedhealth.format.ranges import RangeReader
from sealedhealth.format.sealing import SealedInfo, Sealer, seal
from sealedhealth.format.verify import Checker

__all__ = [
    "CHUNK_SIZE",
    "HEADER_SIZE",
    "SEGMENT_CHUNKS",
    "SEGMENT_SIZE",
    "Checker",
    "Header",
    "Kind",
    "Layout",
    "Opener",
    "RangeReader",
    "SealedInfo",
    "Sealer",
    "data_key_id",
    "object_key",
    "open_sealed",
    "plain_size",
    "seal",
    "sealed_size",
]
