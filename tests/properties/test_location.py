import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sealedhealth.errors import InvalidInput
from sealedhealth.stores.location import TEXT_LIMIT, Location, endpoint_of

ANY = st.one_of(st.text(max_size=300), st.text(st.sampled_from("ab1.:/@?#[]%- \n\0é"), max_size=40))
HOSTS = st.from_regex(r"[a-z0-9]{1,20}(\.[a-z0-9]{1,20}){0,3}", fullmatch=True)


@given(ANY, ANY, ANY, ANY)
def test_whatever_is_taken_is_bounded_and_shows_no_url(store, endpoint, region, jurisdiction):
    """Any four texts: refused, or short, printable, and without room for a path, a user or a query."""
    try:
        made = Location(store, endpoint, region, jurisdiction)
    except InvalidInput as error:
        assert len(str(error)) < 200  # noqa: PT017 - what is not a location is not repeated in the error either
        return
    for part in (made.store, made.endpoint, made.region, made.jurisdiction):
        assert len(part) <= TEXT_LIMIT
        assert part.isprintable()
    assert made.store
    assert not set("/@?# \\") & set(made.endpoint)


@given(ANY)
@example("https://user:secret@host:99999/path")
@example("https://[::1]:443")
@example("http://[fe80::1%25eth0]/")
@example("https://host:port")
@example("https://" + "a" * 300)
def test_every_endpoint_can_be_kept(url):
    """Whatever an address is, what is made of it is taken by a location."""
    for text in (url, f"https://{url}", f"http://{url}/x"):
        assert Location("s3", endpoint_of(text)).endpoint == endpoint_of(text)


@given(HOSTS, st.integers(1, 65535), st.sampled_from(["http", "https"]), st.text("abc-/?&=", max_size=20))
def test_host_and_port_and_nothing_else(host, port, scheme, rest):
    """User, password, path and query of an address are never in its endpoint; the port is, unless it is HTTPS's own."""
    url = f"{scheme}://AKIAEXAMPLE:hunter2@{host}:{port}/{rest}"
    expected = host if (scheme, port) == ("https", 443) else f"{host}:{port}"
    assert endpoint_of(url) == expected
    assert endpoint_of(url.upper().replace("HTTP", "http").replace("httpS", "https")) == expected


@given(HOSTS)
def test_plain_http_is_not_taken_for_https(host):
    """A list that names HOST means HTTPS: the same host in clear is told apart."""
    assert endpoint_of(f"http://{host}") == f"{host}:80"
    assert endpoint_of(f"https://{host}/") == host
    assert endpoint_of(f"https://{host}.") == host


@pytest.mark.parametrize("port", [0, 1, 65535])
def test_ports(port):
    """Odd ports stay."""
    assert endpoint_of(f"https://host:{port}") == f"host:{port}"
