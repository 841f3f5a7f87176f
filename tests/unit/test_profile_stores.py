import pickle

import pytest

from sealedhealth.errors import InvalidInput, ResidencyViolation
from sealedhealth.profiles import load_profile
from sealedhealth.stores.location import Location
from sealedhealth.stores.presets import preset
from sealedhealth.stores.residency import Residency


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Makes a profile file and gives the profile ``a`` of it."""
    path = tmp_path / "profiles.toml"
    monkeypatch.setenv("SEALEDHEALTH_CONFIG", str(path))

    def read(text):
        path.write_text(text, encoding="utf-8")
        return load_profile("a")

    return read


class TestPreset:
    """A host by its name."""

    def test_preset(self, read):
        """A name and a region stand for the endpoint; what else the table says goes to s3fs."""
        profile = read('[profiles.a.store]\npreset = "ovhcloud"\nregion = "gra"\nconfig_kwargs = {read_timeout = 5}\n')
        assert profile.preset == preset("ovhcloud", "gra")
        assert profile.store["endpoint_url"] == "https://s3.gra.io.cloud.ovh.net"
        assert profile.store["client_kwargs"] == {"region_name": "gra"}
        assert profile.store["config_kwargs"]["read_timeout"] == 5
        assert not {"preset", "region"} & set(profile.store)
        assert pickle.loads(pickle.dumps(profile)) == profile

    def test_own_endpoint_wins(self, read):
        """An endpoint beside the preset is the one that is used, and is not taken for the preset's country."""
        profile = read(
            '[profiles.a.store]\npreset = "ovhcloud"\nregion = "gra"\nendpoint_url = "https://s3.private.example"\n'
        )
        location = profile.open_store("s3://bucket/x").location
        assert location == Location("s3", "s3.private.example", "gra")
        assert not profile.locate(location).jurisdiction

    def test_jurisdiction_by_default(self, read):
        """The country of a preset need not be declared."""
        profile = read('[profiles.a.store]\npreset = "scaleway"\nregion = "nl-ams"\n')
        assert profile.locate(Location("s3", "s3.nl-ams.scw.cloud", "nl-ams")).jurisdiction == "NL"

    def test_the_kind_of_url(self, read, tmp_path):
        """A preset is for s3:// URLs; a directory needs none of it; anything else is an error that names both."""
        profile = read('[profiles.a.store]\npreset = "scaleway"\nregion = "nl-ams"\n')
        assert profile.open_store(str(tmp_path)).location == Location("file")
        assert profile.open_store("s3a://bucket/x").location.endpoint == "s3.nl-ams.scw.cloud"
        for url in ("az://container/x", "abfs://container/x", "gs://bucket/x", "sftp://host/x", "AZ://container/x"):
            with pytest.raises(InvalidInput, match="profile 'a' is for scaleway"):
                profile.open_store(url)


class TestStrict:
    """What cannot be meant is refused when the file is read, whichever profile is asked for."""

    @pytest.mark.parametrize(
        "text,complaint",
        [
            ('[profiles.b.store]\npreset = "ovhcloud"\n', "needs a region"),
            ('[profiles.b.store]\npreset = "ovhcloud"\nregion = "fr-par"\n', "no region 'fr-par'"),
            ('[profiles.b.store]\npreset = "azure"\nregion = "fr"\n', "no preset 'azure'"),
            ("[profiles.b.store]\npreset = 3\n", "'preset' in [profiles.b.store]"),
            ('[profiles.b.store]\npreset = "ovhcloud"\nregion = ["gra"]\n', "'region' in [profiles.b.store]"),
            ('[profiles.b.store]\nregion = "gra"\n', 'client_kwargs = {region_name = "gra"}'),
            ('[profiles.b.store]\nclient_kwargs = "gra"\n', "'client_kwargs' in [profiles.b.store]"),
            ('[profiles.b.store]\npreset = "ovhcloud"\nregion = "gra"\nsecret = "hunter2"\n', "is a secret"),
            ('[profiles.b.residency]\nallowed_endpoint = ["x"]\n', "Unknown key 'allowed_endpoint'"),
            ('[profiles.b]\nresidency = "FR"\n', "'residency' in [profiles.b]"),
            ('[profiles.b.residency]\njurisdiction = "France"\n', "no code of a country"),
            ('[profiles.b.residency]\njurisdiction = ""\n', "no code of a country"),
            ("[profiles.b.residency]\njurisdiction = 33\n", "no code of a country"),
            ('[profiles.b.residency]\nallowed_jurisdictions = ["fr"]\n', "'fr' as allowed_jurisdictions"),
            ("[profiles.b.residency]\nallowed_regions = []\n", "at least one"),
            ('[profiles.b.residency]\nallowed_regions = "gra"\n', "'allowed_regions'"),
            ("[profiles.b.residency]\nallowed_regions = [3]\n", "'allowed_regions'"),
            ('[profiles.b.residency]\nallowed_regions = ["a b"]\n', "'allowed_regions'"),
            ('[profiles.b.residency]\nallowed_endpoints = ["s3.example.org/bucket"]\n', "is no endpoint"),
            ('[profiles.b.residency]\nallowed_endpoints = ["me@s3.example.org"]\n', "is no endpoint"),
            ('[profiles.b.residency]\nallowed_endpoints = ["*.example.org"]\n', "is no endpoint"),
            ('[profiles.b.residency]\nallowed_endpoints = ["file:///srv"]\n', "is no endpoint"),
        ],
    )
    def test_refused(self, read, text, complaint):
        """Unknown keys, wrong types, empty lists, what is no country or endpoint: named with their table."""
        with pytest.raises(InvalidInput) as caught:
            read("[profiles.a]\n" + text)
        assert complaint in str(caught.value)
        assert "profiles.toml" in str(caught.value)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        "store",
        ['preset = "scaleway"\nregion = "nl-ams"', 'endpoint_url = "https://s3.nl-ams.scw.cloud"'],
        ids=["preset", "endpoint"],
    )
    def test_a_jurisdiction_that_contradicts_what_is_known(self, read, store):
        """Amsterdam is not in France, by whichever name the profile calls it."""
        with pytest.raises(InvalidInput, match=r"'FR'.*s3\.nl-ams\.scw\.cloud is in NL"):
            read(f'[profiles.a.store]\n{store}\n[profiles.a.residency]\njurisdiction = "FR"\n')
        assert read(f'[profiles.a.store]\n{store}\n[profiles.a.residency]\njurisdiction = "NL"\n')


class TestResidency:
    """Which places pass, and what is said of those that do not."""

    def test_read(self, read):
        """Lists are kept in the form that stores tell; what they name is what declarations are about."""
        profile = read(
            """
            [profiles.a.store]
            endpoint_url = "https://S3.hospital.example:443/"
            [profiles.a.residency]
            jurisdiction = "FR"
            allowed_endpoints = ["s3.hospital.example", "https://Backup.hospital.example:9000", "file://"]
            """
        )
        assert profile.residency == Residency(
            jurisdiction="FR",
            endpoints=("s3.hospital.example", "backup.hospital.example:9000", "file://"),
            allowed_endpoints=("s3.hospital.example", "backup.hospital.example:9000", "file://"),
        )

    def test_nothing_said_restricts_nothing(self, read):
        """Without a table every place may be written to."""
        assert not read("[profiles.a]\n").residency.restricts
        assert not read('[profiles.a.residency]\njurisdiction = "FR"\n').residency.restricts

    @pytest.mark.parametrize(
        "place,passes",
        [
            (Location("s3", "s3.gra.io.cloud.ovh.net", "gra"), True),
            (Location("s3", "s3.bhs.io.cloud.ovh.net", "bhs"), False),
            (Location("s3", "s3.bhs.io.cloud.ovh.net", "gra"), False),
            (Location("s3", "s3.hospital.example", ""), True),
            (Location("s3", "s3.other.example", ""), False),
            (Location("file"), False),
        ],
    )
    def test_jurisdictions(self, place, passes):
        """A known endpoint is where it is, one that the profile names is where it says, any other is nowhere."""
        rule = Residency("FR", ("s3.hospital.example",), allowed_jurisdictions=("FR",))
        if passes:
            rule.check(place)
        else:
            with pytest.raises(ResidencyViolation):
                rule.check(place)

    @pytest.mark.parametrize(
        "place,passes",
        [
            (Location("s3", "s3.eu-west-3.amazonaws.com", "eu-west-3"), True),
            (Location("s3", "s3.us-east-1.amazonaws.com", "eu-west-3"), False),
            (Location("s3", "s3.hospital.example", "eu-west-3"), True),
            (Location("s3", "s3.hospital.example", "us-east-1"), False),
            (Location("s3", "s3.other.example", "eu-west-3"), False),
            (Location("file"), False),
        ],
    )
    def test_regions(self, place, passes):
        """The host's name says the region where it can; elsewhere the client's word counts at named endpoints only."""
        rule = Residency(endpoints=("s3.hospital.example",), allowed_regions=("eu-west-3",))
        if passes:
            rule.check(place)
        else:
            with pytest.raises(ResidencyViolation):
                rule.check(place)

    def test_every_list_has_to_agree(self):
        """One list that allows a place does not outvote another."""
        rule = Residency(allowed_endpoints=("s3.bhs.io.cloud.ovh.net",), allowed_jurisdictions=("FR",))
        with pytest.raises(ResidencyViolation, match="jurisdiction 'CA'"):
            rule.check(Location("s3", "s3.bhs.io.cloud.ovh.net", "bhs"))

    def test_this_machine(self):
        """Directories are allowed by their own word; a host that is called so is not meant by it."""
        rule = Residency("FR", ("file://",), allowed_endpoints=("file://",), allowed_jurisdictions=("FR",))
        rule.check(Location("file"))
        with pytest.raises(ResidencyViolation):
            rule.check(Location("s3", "file", "file"))
        Residency("FR", allowed_jurisdictions=("FR",)).check(Location("file"))  # no endpoint named: of this machine

    def test_the_account_of_a_profile_names_its_endpoint(self, read):
        """An Azure account in the profile is what its declaration is about."""
        profile = read(
            '[profiles.a.store]\naccount_name = "chu"\n'
            '[profiles.a.residency]\njurisdiction = "FR"\nallowed_jurisdictions = ["FR"]\n'
        )
        profile.residency.check(Location("az", "chu.blob.core.windows.net"))
        with pytest.raises(ResidencyViolation):
            profile.residency.check(Location("az", "other.blob.core.windows.net"))

    def test_the_error_says_where_and_what_is_allowed(self):
        """One message: the place, which list it is not on, and the list."""
        with pytest.raises(ResidencyViolation) as caught:
            Residency(allowed_endpoints=("s3.a.example", "s3.b.example")).check(Location("s3", "s3.c.example"))
        assert str(caught.value) == (
            "The profile does not allow writing to s3.c.example: it is not in allowed_endpoints. Nothing was written "
            "there. Allowed: s3.a.example, s3.b.example. Correct the URL, the profile or the environment."
        )
        assert caught.value.exit_code == 4
