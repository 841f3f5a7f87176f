"""Canaries at any place, in any form, in pieces of any size: found; and never where there is none."""

import base64
import bz2
import gzip
import lzma
import unicodedata
import zlib

from hypothesis import assume, example, given
from hypothesis import strategies as st

from sealedhealth.scan import Canary
from sealedhealth.scan.canaries import Needles
from sealedhealth.scan.contents import Budget, Contents

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=8, max_size=40).map(
    str.strip
)
ENCODINGS = st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "latin-1"])
CODES = st.sampled_from(
    [
        bytes,
        base64.b64encode,
        base64.urlsafe_b64encode,
        lambda raw: raw.hex().encode(),
        lambda raw: raw.hex().upper().encode(),
    ]
)
PACKINGS = st.lists(st.sampled_from([gzip.compress, zlib.compress, bz2.compress, lzma.compress]), max_size=3)


def usable(text):
    """Whether *text* may be a canary."""
    try:
        Canary(text, "")
    except ValueError:
        return False
    return True


def search(canaries, data, step):
    """What is found in *data*, in pieces of *step* bytes."""
    found = []
    contents = Contents(Needles(canaries), found.append, Budget(64 << 20))
    for start in range(0, len(data), step):
        contents.feed(data[start : start + step])
    contents.finish()
    return found


@given(
    TEXTS.filter(usable),
    ENCODINGS,
    CODES,
    PACKINGS,
    st.binary(max_size=300),
    st.binary(max_size=300),
    st.integers(1, 2000),
)
@example("Dupont, Anne née 1972", "utf-16-le", base64.b64encode, [gzip.compress], b"\x1f\x8b\x08\0PK\3\4", b"", 1)
def test_any_place_and_form(text, encoding, code, packings, before, after, step):
    """A canary in any encoding and code, compressed up to three times, anywhere, comes out of any pieces."""
    try:
        raw = text.encode(encoding)
    except UnicodeEncodeError:
        assume(False)
    data = code(before + raw + after)
    for packing in packings:
        data = packing(data)
    assert search([Canary(text, "here")], before + data + after, step)


@given(TEXTS.filter(usable), st.sampled_from(["NFC", "NFD"]))
def test_any_spelling_of_accents(text, form):
    """Composed or decomposed, whatever the canary itself is."""
    spelled = unicodedata.normalize(form, text)
    assume(len(spelled) >= 8)
    assert search([Canary(text, "here")], spelled.encode(), 4096)


@given(
    st.lists(TEXTS.filter(usable), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(0, 5) | st.binary(max_size=50), max_size=20),
    st.integers(1, 999),
)
def test_each_once(texts, parts, step):
    """What is reported is what one search of the whole finds, wherever the pieces are cut: nothing twice."""
    data = b"".join(part if isinstance(part, bytes) else texts[part % len(texts)].encode() for part in parts)
    canaries = [Canary(text, str(number)) for number, text in enumerate(texts)]
    found = [one for one in search(canaries, data, step) if not one.inside]
    whole = [(hit.start, hit.canary.label, hit.form) for hit in Needles(canaries)(data)]
    assert sorted((one.offset, one.hit.canary.label, one.hit.form) for one in found) == sorted(whole)
    there = {str(number) for number, text in enumerate(texts) if text.encode() in data}
    assert there <= {label for _, label, _ in whole}
