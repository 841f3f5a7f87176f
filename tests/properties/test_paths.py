import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from sealedhealth.errors import InvalidPath
from sealedhealth.log.paths import MAX_PATH_BYTES, canonical, is_under, lines_are_canonical, parents

# Mostly what matters: separators, dots, controls, combining characters, the ends of ranges.
characters = (
    st.sampled_from("abé/./.\\\n\r\0\x7f\x80\x9f\xa0e\u0301\u0316\u2028\u2029\ud800\udfff\u0378漢😀") | st.characters()
)
paths = st.text(characters, max_size=30)


def allowed(path):
    """The rules of canonical paths, written down plainly, but for the normal form."""
    return (
        all(part not in {"", ".", ".."} for part in path.split("/"))
        and all(unicodedata.category(each) not in {"Cc", "Cs", "Zl", "Zp"} and each != "\\" for each in path)
        and len(unicodedata.normalize("NFC", path).encode(errors="surrogatepass")) <= MAX_PATH_BYTES
    )


@settings(max_examples=500)
@given(paths)
def test_canonical(path):
    """What the rules allow comes back in NFC and stays there; everything else is refused."""
    try:
        result = canonical(path)
    except InvalidPath:
        assert not allowed(path)
        return
    assert allowed(path)
    assert result == unicodedata.normalize("NFC", path) == canonical(result)
    for parent in parents(result):
        assert canonical(parent) == parent
        assert is_under(result, parent)


def is_canonical(path):
    """Whether a path is in canonical form."""
    try:
        return canonical(path) == path
    except InvalidPath:
        return False


@settings(max_examples=500)
@given(st.lists(paths.map(lambda path: path.replace("\n", "")), min_size=1, max_size=4))
def test_many_at_once(lines):
    """The check of many paths at once says what the check of each says."""
    assert lines_are_canonical("\n".join(lines)) == all(map(is_canonical, lines))
