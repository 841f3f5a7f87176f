"""Canaries: which ones are taken, how they are named, and that each way of writing them is looked for."""

import base64
import os
import random
import unicodedata

import pytest

from sealedhealth.errors import InvalidInput
from sealedhealth.scan import Canary, read_canaries
from sealedhealth.scan.canaries import MAX_CANARIES, Needles

CODES = [base64.b64encode, base64.urlsafe_b64encode, bytes.hex, lambda raw: raw.hex().upper()]
TEXT = "Dupont-Martín, née 12/03/1972"


def found(text, data):
    """The forms of *text* in *data*, and where they begin."""
    return [(hit.start, hit.form) for hit in Needles([Canary(text, "here")])(data)]


class TestWhichAreTaken:
    """A canary that chance could make would be a false alarm."""

    @pytest.mark.parametrize("text", ["Dupont", "1972-03", "é" * 7, "", "e\N{COMBINING ACUTE ACCENT}" * 7])
    def test_too_short(self, text):
        """Fewer than eight characters are refused, however many bytes they take."""
        with pytest.raises(InvalidInput, match="by chance"):
            Canary(text, "here")

    @pytest.mark.parametrize("text", ["19720312", "deadbeef", "ABCDEF01234"])
    def test_a_part_of_an_identifier(self, text):
        """Fewer than twelve hexadecimal digits could be a part of an identifier of ours."""
        with pytest.raises(InvalidInput, match="identifier"):
            Canary(text, "here")

    def test_as_short_as_they_may_be(self):
        """Eight characters, or twelve digits."""
        assert found("Dupont-M", b"Dupont-M")
        assert found("197203121234", b"197203121234")

    def test_too_long(self):
        """What nobody writes on one line is refused."""
        with pytest.raises(InvalidInput, match="characters"):
            Canary("x" * 2000, "here")

    def test_the_text_is_not_in_the_error(self):
        """Errors end up in logs."""
        with pytest.raises(InvalidInput) as caught:
            Canary("Dupont", "here")
        assert "Dupont" not in str(caught.value)

    def test_the_text_is_not_in_the_repr(self):
        """Nor do tracebacks show it."""
        assert "Dupont" not in repr(Canary(TEXT, "here"))


class TestFiles:
    """One canary a line."""

    def test_lines(self, tmp_path):
        """Blank lines, spaces around, other line ends, a byte order mark and repetitions do not count."""
        file = tmp_path / "canaries.txt"
        file.write_bytes(b"\xef\xbb\xbfone canary\r\n\r\n  another one \n\none canary\n")
        canaries = read_canaries([file])
        assert [canary.text for canary in canaries] == ["one canary", "another one"]
        assert [canary.label for canary in canaries] == ["canaries.txt, line 1", "canaries.txt, line 3"]
        assert all(len(canary.digest) == 4 for canary in canaries)

    def test_not_text(self, tmp_path):
        """A file in another encoding is refused rather than guessed at."""
        file = tmp_path / "canaries.txt"
        file.write_bytes("Dupont-Martín\n".encode("latin-1"))
        with pytest.raises(InvalidInput, match="UTF-8"):
            read_canaries([file])

    def test_a_short_line_is_named(self, tmp_path):
        """The error says which line, and does not repeat it."""
        file = tmp_path / "canaries.txt"
        file.write_text("long enough\nshort\n")
        with pytest.raises(InvalidInput, match="line 2") as caught:
            read_canaries([file])
        assert "short" not in str(caught.value).replace("shorter", "")

    def test_too_many(self, tmp_path):
        """A data set is no list of canaries."""
        file = tmp_path / "canaries.txt"
        file.write_text("\n".join(f"canary number {number}" for number in range(MAX_CANARIES + 1)))
        with pytest.raises(InvalidInput, match="the most"):
            read_canaries([file])


class TestForms:
    """Each way of writing a canary."""

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "latin-1"])
    def test_encodings(self, encoding):
        """As it is, in each encoding, where it stands."""
        assert found(TEXT, b"before," + TEXT.encode(encoding) + b",after")[0][0] == 7

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "latin-1"])
    @pytest.mark.parametrize("before", range(4))
    @pytest.mark.parametrize(
        "code", [base64.b64encode, base64.urlsafe_b64encode, bytes.hex, lambda raw: raw.hex().upper()]
    )
    def test_coded(self, encoding, before, code):
        """In base64 at each alignment, and in hexadecimal digits of both cases."""
        coded = code(b"?" * before + TEXT.encode(encoding) + b"!" * (before % 3))
        assert found(TEXT, coded if isinstance(coded, bytes) else coded.encode())

    def test_both_alphabets_of_base64(self):
        """The alphabet for URLs differs where there are '+' and '/'."""
        text = "subjects?>>>~~~~"
        for code in (base64.b64encode, base64.urlsafe_b64encode):
            assert found(text, code(text.encode()))
        assert base64.b64encode(text.encode()) != base64.urlsafe_b64encode(text.encode())

    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_spellings_of_accents(self, form):
        """Composed and decomposed letters, whichever the canary has."""
        for given in ("NFC", "NFD"):
            assert found(unicodedata.normalize(given, TEXT), unicodedata.normalize(form, TEXT).encode())

    def test_in_json_and_in_urls(self):
        """Escaped as JSON and URLs have it."""
        assert found(TEXT, b'{"name": "Dupont-Mart\\u00edn, n\\u00e9e 12/03/1972"}')
        assert found(TEXT, b"/Dupont-Mart%C3%ADn%2C%20n%C3%A9e%2012%2F03%2F1972/")
        assert found(TEXT, b"?q=dupont&n=Dupont-Mart%c3%adn%2c%20n%c3%a9e%2012%2f03%2f1972")


class TestSearch:
    """Many canaries at once, and none too many."""

    def test_all_of_many(self):
        """Canaries that begin alike, or that are parts of each other, are all found."""
        texts = ["canary one", "canary one and a half", "canary ones", "my canary one"]
        needles = Needles([Canary(text, text) for text in texts])
        hits = {hit.canary.label for hit in needles(b"-my canary one and a half-canary ones-")}
        assert hits == set(texts)

    def test_only_what_is_new(self):
        """What ended before the new part was reported already."""
        needles = Needles([Canary("canary one", "here")])
        assert [hit.start for hit in needles(b"canary one canary one", 10)] == [11]
        assert [hit.start for hit in needles(b"canary one canary one", 9)] == [0, 11]

    def test_nothing_in_random_bytes(self):
        """Random bytes hold no canary, not even one of the shortest."""
        rng = random.Random(11)
        needles = Needles([Canary(f"{rng.getrandbits(32):08x}z"[-8:], str(number)) for number in range(200)])
        assert not list(needles(os.urandom(4 << 20)))
        assert not list(needles(os.urandom(1 << 20).hex().encode()))

    def test_no_canaries(self):
        """Without any, nothing is found and nothing is looked at."""
        assert not Needles([])
        assert not list(Needles([])(b"anything at all"))
