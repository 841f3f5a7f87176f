"""Objects written in parts: what is sent, and what is held meanwhile."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sealedhealth.stores import Buffer
from sealedhealth.stores.parts import IN_FLIGHT, PartsWriter


class Kept(PartsWriter):
    """Keeps what it is given to send; each part looks at its bytes only when the last one before it must go."""

    part_size = 1_000
    most_parts = 10_000

    def __init__(self, size_hint: int | None = None, *, double_after: int = 10_000) -> None:
        self.double_after = double_after
        self.parts: dict[int, bytes] = {}
        self.buffers: set[int] = set()
        self.whole = b""
        self._late = threading.Semaphore(0)
        super().__init__(self, "name", size_hint)  # type: ignore[arg-type]  # it is its own store, for put()

    def put(self, _: str, data: Buffer) -> None:
        """Take the whole of a small object."""
        self.whole = bytes(data)

    def _begin(self) -> None: ...

    def _send_part(self, number: int, data: bytearray) -> int:
        self._late.acquire(timeout=0.003)  # time for somebody to write over it
        self.buffers.add(id(data))
        self.parts[number] = bytes(data)
        return number

    def _complete(self, parts: list[Any]) -> None:
        assert parts == sorted(self.parts)
        self.whole = b"".join(self.parts[number] for number in parts)

    def _abort(self) -> None: ...


def _content(size: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


@pytest.mark.parametrize("step", [1, 300, 1_000, 1_700, 30_000])
@pytest.mark.parametrize("size", [0, 1, 999, 1_000, 1_001, 2_000, 12_345])
def test_what_was_written_is_what_is_sent(size, step):
    """Whatever pieces it comes in; buffers that are used again are written to only after they were sent."""
    writer, content = Kept(), _content(size)
    for at in range(0, size, step):
        writer.write(content[at : at + step])
    writer.commit()
    assert writer.whole == content
    sizes = [len(part) for _, part in sorted(writer.parts.items())]
    assert not sizes if size <= 1_000 else set(sizes[:-1]) == {1_000} and 0 < sizes[-1] <= 1_000


def test_parts_share_a_few_buffers():
    """However long the object is, so many parts are in memory at once and no more."""
    writer, content = Kept(), _content(50_500)
    writer.write(content)
    writer.commit()
    assert writer.whole == content
    assert len(writer.buffers) <= IN_FLIGHT + 2  # one is being filled, and the last is shorter


def test_growing_parts():
    """Parts that double in size hold their own bytes, too."""
    writer, content = Kept(double_after=4), _content(60_000)
    for at in range(0, len(content), 700):
        writer.write(content[at : at + 700])
    writer.commit()
    assert writer.whole == content
    assert {len(part) for part in writer.parts.values()} >= {1_000, 2_000, 4_000, 8_000}


def test_the_caller_may_reuse_its_buffer():
    """Bytes are copied when they are written."""
    writer, buffer = Kept(), bytearray(_content(3_500))
    writer.write(memoryview(buffer))
    buffer[:] = bytes(3_500)
    writer.commit()
    assert writer.whole == _content(3_500)
