"""Where an S3 store says that it is: what was configured, and never the client's own default for a fact."""

import pytest

from sealedhealth.errors import AccessDenied
from sealedhealth.stores import open_store

PREMISES = "http://127.0.0.1:9"  # nobody listens there


def region(**options):
    """The region that a store with these options tells."""
    return open_store("s3://bucket/cardio", options).location.region


class TestRegion:
    """AWS's client signs for us-east-1 when nobody names a region, and a server of one's own does not mind."""

    def test_the_default_is_no_fact(self):
        """On a server of one's own, and on AWS, where the bucket may be anywhere."""
        assert region(endpoint_url=PREMISES) == ""
        assert region() == ""

    @pytest.mark.parametrize("name", ["us-east-1", "lille"])
    def test_what_was_configured(self, name, monkeypatch, tmp_path):
        """By each of the ways, the default's own name included."""
        assert region(endpoint_url=PREMISES, client_kwargs={"region_name": name}) == name
        assert region(endpoint_url=PREMISES, config_kwargs={"region_name": name}) == name
        (tmp_path / "aws").write_text(f"[default]\nregion = {name}\n")
        with monkeypatch.context() as patch:
            patch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
            assert region(endpoint_url=f"http://{name}:1") == name
        monkeypatch.setenv("AWS_DEFAULT_REGION", name)
        assert region(endpoint_url=f"http://{name}:2") == name

    def test_the_name_of_the_host(self):
        """An endpoint that says its region needs nobody else to say it."""
        assert region(endpoint_url="https://s3.eu-west-3.amazonaws.com") == "eu-west-3"


class TestErrors:
    """An error names the endpoint that was tried, and what may be wrong with it."""

    def test_no_credentials(self):
        """The profile that was forgotten is hinted at where S3's own endpoint was used for lack of another."""
        for options, hinted in (({}, True), ({"endpoint_url": PREMISES}, False)):
            store = open_store("s3://bucket/cardio", options)
            with pytest.raises(AccessDenied, match="no usable credentials were found") as caught:
                store.exists("a")
            assert store.location.endpoint in caught.value.what
            assert ("--profile" in caught.value.next) is hinted

    def test_an_endpoint_of_aws_that_was_chosen(self):
        """Who names AWS in the profile means it."""
        store = open_store("s3://bucket/cardio", {"endpoint_url": "https://s3.eu-west-3.amazonaws.com"})
        with pytest.raises(AccessDenied) as caught:
            store.exists("a")
        assert "--profile" not in caught.value.next

    def test_credentials_in_an_endpoint_are_not_shown(self):
        """Only its host is."""
        store = open_store("s3://bucket/cardio", {"endpoint_url": "http://someone:else@127.0.0.1:9"})
        with pytest.raises(AccessDenied) as caught:
            store.exists("a")
        assert "else" not in str(caught.value)
        assert "127.0.0.1:9" in caught.value.what
