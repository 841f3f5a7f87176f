import pytest

from sealedhealth.errors import InvalidInput
from sealedhealth.stores import open_store
from sealedhealth.stores.location import Location
from sealedhealth.stores.presets import PRESETS, known_parts, known_region, preset, preset_of

CREDENTIALS = {"key": "any", "secret": "any"}


@pytest.mark.parametrize("item", PRESETS, ids=lambda item: f"{item.name}-{item.region}")
def test_the_client_uses_what_the_preset_says(item, monkeypatch):
    """Endpoint and region of every preset are those of the client itself, whatever the environment says."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://elsewhere.example")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "elsewhere")
    store = open_store("s3://bucket/dataset", item.options(CREDENTIALS))
    assert store.location == Location("s3", item.endpoint, item.region)
    assert store.fs.s3.meta.config.s3["addressing_style"] == "path"
    assert len(item.jurisdiction) == 2


class TestLookup:
    """From a name, or an endpoint, to what is known about it."""

    def test_regions(self):
        """Both hosts, by the names that they use themselves."""
        assert preset("ovhcloud", "gra").endpoint == "s3.gra.io.cloud.ovh.net"
        assert preset("scaleway", "fr-par").endpoint == "s3.fr-par.scw.cloud"
        assert {item.jurisdiction for item in PRESETS if item.name == "scaleway"} == {"FR", "NL", "PL", "IT"}
        assert preset("ovhcloud", "bhs").jurisdiction == "CA"

    def test_an_unknown_region_names_the_known_ones(self):
        """The error says which there are, and what to do about one that is new."""
        with pytest.raises(InvalidInput, match=r"no region 'fr-lil'.*fr-par, nl-ams, pl-waw, it-mil.*endpoint_url"):
            preset("scaleway", "fr-lil")
        with pytest.raises(InvalidInput, match="needs a region"):
            preset("ovhcloud", "")
        with pytest.raises(InvalidInput, match=r"no preset 'azure'.*ovhcloud, scaleway"):
            preset("azure", "fr")

    def test_by_endpoint(self):
        """What is known about an endpoint holds however the profile came by it."""
        assert preset_of("s3.nl-ams.scw.cloud") == preset("scaleway", "nl-ams")
        assert preset_of("s3.nl-ams.scw.cloud.example.org") is None
        assert known_parts("s3.fr-par.scw.cloud") == 1000
        assert known_parts("s3.example.org") is None

    @pytest.mark.parametrize(
        "endpoint,region",
        [
            ("s3.gra.io.cloud.ovh.net", "gra"),
            ("s3.eu-west-3.amazonaws.com", "eu-west-3"),
            ("s3.dualstack.eu-west-3.amazonaws.com", "eu-west-3"),
            ("s3-fips.ca-central-1.amazonaws.com", "ca-central-1"),
            ("s3.us-gov-east-1.amazonaws.com", "us-gov-east-1"),
            ("s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("s3.amazonaws.com", ""),
            ("s3.eu-west-3.amazonaws.com.example.org", ""),
            ("s3.eu-west-3.amazonaws.com:8443", ""),
            ("eu-west-3.example.org", ""),
            ("", ""),
        ],
    )
    def test_a_region_in_a_host_name(self, endpoint, region):
        """Only the names that belong to the host itself say a region."""
        assert known_region(endpoint) == region


class TestOptions:
    """What the user says wins over the preset."""

    def test_own_options_win(self):
        """An endpoint, a region, the style of addresses: each can be given, the rest stays the preset's."""
        given = {
            "endpoint_url": "https://s3.private.example",
            "client_kwargs": {"region_name": "other"},
            "config_kwargs": {"s3": {"addressing_style": "virtual"}, "max_pool_connections": 3},
        }
        options = preset("ovhcloud", "sbg").options(given)
        assert options["endpoint_url"] == "https://s3.private.example"
        assert options["client_kwargs"] == {"region_name": "other"}
        assert options["config_kwargs"] == {"s3": {"addressing_style": "virtual"}, "max_pool_connections": 3}

    def test_an_endpoint_for_the_client_is_not_given_twice(self):
        """s3fs refuses an endpoint that comes by both of its ways."""
        options = preset("ovhcloud", "sbg").options({"client_kwargs": {"endpoint_url": "https://s3.private.example"}})
        assert "endpoint_url" not in options
        assert open_store("s3://bucket/x", {**options, **CREDENTIALS}).location.endpoint == "s3.private.example"

    def test_nothing_given_is_changed(self):
        """The options of the caller stay as they are."""
        given = {"config_kwargs": {"s3": {}}}
        preset("scaleway", "fr-par").options(given)
        assert given == {"config_kwargs": {"s3": {}}}
