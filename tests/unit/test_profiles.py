import os
import pickle
import stat

import pytest

from sealedhealth import profiles
from sealedhealth.errors import AccessDenied, AlreadyExists, InvalidInput, WrongPassphrase
from sealedhealth.keys.base import Kek
from sealedhealth.profiles import connect, create_keystore, load_profile, profile_names


@pytest.fixture(autouse=True)
def _clean(tmp_path, monkeypatch):
    """A machine without configuration, keystore or terminal."""
    for name in list(os.environ):
        if name.startswith(("SEALEDHEALTH_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEALEDHEALTH_HOME", str(tmp_path / "sealed"))
    profiles.disconnect()
    profiles.set_passphrase_prompt(None)
    yield
    profiles.disconnect()
    profiles.set_passphrase_prompt(None)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes the profile file that SEALEDHEALTH_CONFIG names."""
    path = tmp_path / "profiles.toml"
    monkeypatch.setenv("SEALEDHEALTH_CONFIG", str(path))

    def write(text):
        path.write_text(text, encoding="utf-8")
        return path

    return write


class TestLoading:
    """What a profile file and the environment say."""

    def test_local_needs_no_configuration(self, tmp_path):
        """With nothing configured, 'local' keeps keys and state under SEALEDHEALTH_HOME."""
        profile = load_profile()
        assert (profile.name, profile.keys, profile.author) == ("local", "local", "author")
        assert profile.keystore == tmp_path / "sealed" / "keystore"
        assert profile.state == tmp_path / "sealed" / "state"
        assert profile.passphrase_file is None

    def test_default_home_is_the_platforms(self, tmp_path, monkeypatch):
        """Without SEALEDHEALTH_HOME the XDG data directory is used; a relative one is ignored as XDG says."""
        monkeypatch.delenv("SEALEDHEALTH_HOME")
        monkeypatch.setattr("sys.platform", "linux")
        assert profiles.home() == tmp_path / "home/.local/share/sealedhealth"
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
        assert profiles.home() == tmp_path / "xdg/sealedhealth"
        monkeypatch.setenv("XDG_DATA_HOME", "relative")
        assert profiles.home() == tmp_path / "home/.local/share/sealedhealth"
        assert profiles.config_path() == tmp_path / "home/.config/sealedhealth/config.toml"
        monkeypatch.setattr("sys.platform", "darwin")
        assert profiles.home() == tmp_path / "home/Library/Application Support/sealedhealth"

    def test_file(self, config, tmp_path):
        """Every setting of a profile is read; URLs lose their trailing slash."""
        config(
            """
            [profiles.chu-lille]
            keystore = "~/keys"
            author = "lab"
            state = "/var/lib/sealed"
            passphrase_file = "/run/secrets/p"
            [profiles.chu-lille.store]
            endpoint_url = "http://127.0.0.1:9000"
            client_kwargs = {region_name = "eu-west-3"}
            [profiles.chu-lille.datasets]
            "s3://bucket/cardio/" = "000102030405060708090a0b0c0d0e0f"
            """
        )
        profile = load_profile("chu-lille")
        assert profile.keystore == tmp_path / "home/keys"
        assert profile.author == "lab"
        assert str(profile.state) == "/var/lib/sealed"
        assert str(profile.passphrase_file) == "/run/secrets/p"
        assert profile.store == {
            "endpoint_url": "http://127.0.0.1:9000",
            "client_kwargs": {"region_name": "eu-west-3"},
        }
        assert profile.dataset_ids == {"s3://bucket/cardio": "000102030405060708090a0b0c0d0e0f"}
        assert profile_names() == ["chu-lille", "local"]
        assert pickle.loads(pickle.dumps(profile)) == profile

    def test_environment_overrides(self, config, monkeypatch, tmp_path):
        """The environment names the profile and overrides its places."""
        config('[profiles.job]\nkeystore = "/a"\nauthor = "a"\n')
        monkeypatch.setenv("SEALEDHEALTH_PROFILE", "job")
        monkeypatch.setenv("SEALEDHEALTH_KEYSTORE", str(tmp_path / "other"))
        monkeypatch.setenv("SEALEDHEALTH_PASSPHRASE_FILE", str(tmp_path / "p"))
        profile = load_profile()
        assert (profile.name, profile.author) == ("job", "a")
        assert profile.keystore == tmp_path / "other"
        assert profile.passphrase_file == tmp_path / "p"

    @pytest.mark.parametrize(
        "text,complaint",
        [
            ('[profiles.a]\nkeystor = "/x"\n', "Unknown key 'keystor' in [profiles.a]"),
            ('[profile.a]\nkeystore = "/x"\n', "Unknown key 'profile' at the top"),
            ("[profiles.a]\nkeystore = 3\n", "'keystore' in [profiles.a]"),
            ("[profiles.a]\nprefix = 3\n", "'prefix' in [profiles.a]"),
            ('[profiles.a]\nprefix = "../x"\n', "is no directory of a dataset"),
            ('[profiles.a]\nprefix = "lille/"\n', "is no directory of a dataset"),
            ('[profiles.a]\nkeystore = ""\n', "'keystore' in [profiles.a]"),
            ('[profiles.a]\nstore = "x"\n', "'store' in [profiles.a]"),
            ('[profiles.a]\nkeys = "vaultt"\n', "'vaultt'"),
            ('[profiles.a.store]\nsecret = "hunter2"\n', "'secret' in [profiles.a.store]"),
            ('[profiles.a.store.client_kwargs]\naws_secret_access_key = "hunter2"\n', "is a secret"),
            ('[profiles.a.store]\nendpoint_url = "https://me:hunter2@host"\n', "is a secret"),
            ('[profiles.a.datasets]\n"s3://b" = "zz"\n', "32 lower-case"),
            ('[profiles."../a"]\n', "cannot be the name"),
            ("profiles = 3\n", "has to hold tables"),
            ("[profiles.a\n", "not valid TOML"),
        ],
    )
    def test_strict(self, config, text, complaint):
        """What is unknown, of the wrong type, or a secret is refused, naming key and file, never the secret."""
        path = config(text)
        with pytest.raises(InvalidInput) as caught:
            load_profile("local")
        assert complaint in str(caught.value)
        assert str(path) in str(caught.value)
        assert "hunter2" not in str(caught.value)

    def test_unknown_profile(self):
        """A name that is not configured is an error, not an empty profile."""
        with pytest.raises(InvalidInput, match="no profile 'chu'"):
            load_profile("chu")
        with pytest.raises(InvalidInput, match="cannot be the name"):
            load_profile("../x")

    def test_named_file_has_to_exist(self, monkeypatch, tmp_path):
        """A profile file that SEALEDHEALTH_CONFIG names and that is not there is an error."""
        monkeypatch.setenv("SEALEDHEALTH_CONFIG", str(tmp_path / "none.toml"))
        with pytest.raises(InvalidInput, match="does not exist"):
            load_profile()


class TestConnecting:
    """Keystores, passphrases and connections."""

    def test_no_keystore_refuses(self, tmp_path):
        """Without a keystore nothing is opened and nothing is made: never a development one by itself."""
        with pytest.raises(AccessDenied, match="keystore init"):
            connect(load_profile())
        assert not (tmp_path / "sealed").exists()

    def test_no_keystore_is_not_a_missing_file(self):
        """A missing keystore must not look like a missing file to callers that treat those as absent."""
        with pytest.raises(AccessDenied) as caught:
            connect(load_profile())
        assert not isinstance(caught.value, FileNotFoundError)

    def test_development_is_asked_for_by_name(self):
        """A development keystore needs no passphrase and says what it is."""
        context = create_keystore(load_profile(), development=True)
        assert context.service.capabilities().development
        profiles.disconnect()
        assert "development" in connect(load_profile()).service.capabilities().label
        with pytest.raises(AlreadyExists):
            create_keystore(load_profile(), development=True)

    def test_cached_per_profile(self):
        """One connection per process and profile."""
        create_keystore(load_profile(), development=True)
        assert connect(load_profile()) is connect(load_profile())

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_child_of_fork_connects_anew(self):
        """A forked child does not use its parent's connection."""
        create_keystore(load_profile(), development=True)
        parent = connect(load_profile())
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            os.write(writer, b"same" if connect(load_profile()) is parent else b"anew")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 4) == b"anew"
        os.close(reader)
        os.close(writer)

    def test_passphrase_file(self, tmp_path, monkeypatch):
        """A passphrase from a file makes and opens a keystore; a wrong one does not."""
        phrase = tmp_path / "phrase"
        phrase.write_text("correct horse\n")
        phrase.chmod(0o600)
        monkeypatch.setenv("SEALEDHEALTH_PASSPHRASE_FILE", str(phrase))
        kek = Kek(bytes(16), bytes(16))
        create_keystore(load_profile()).service.create(kek)
        profiles.disconnect()
        connect(load_profile()).service.generate(kek)
        profiles.disconnect()
        phrase.write_text("wrong horse\n")
        with pytest.raises(WrongPassphrase) as caught:
            connect(load_profile()).service.generate(kek)
        assert "horse" not in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"\n", b"x" * 5000])
    def test_unusable_passphrase_files(self, tmp_path, monkeypatch, content):
        """An empty passphrase file, or one that is too long, is refused before anything is made."""
        phrase = tmp_path / "phrase"
        phrase.write_bytes(content)
        phrase.chmod(0o600)
        monkeypatch.setenv("SEALEDHEALTH_PASSPHRASE_FILE", str(phrase))
        with pytest.raises(InvalidInput):
            create_keystore(load_profile())
        assert not load_profile().keystore.exists()

    def test_passphrase_file_of_everybody(self, tmp_path, monkeypatch):
        """A passphrase file that others may read is refused."""
        phrase = tmp_path / "phrase"
        phrase.write_text("correct horse")
        phrase.chmod(0o644)
        monkeypatch.setenv("SEALEDHEALTH_PASSPHRASE_FILE", str(phrase))
        with pytest.raises(AccessDenied, match="chmod 600"):
            create_keystore(load_profile())

    def test_missing_passphrase_file(self, tmp_path, monkeypatch):
        """A passphrase file that is not there is an error that names it."""
        monkeypatch.setenv("SEALEDHEALTH_PASSPHRASE_FILE", str(tmp_path / "none"))
        with pytest.raises((AccessDenied, InvalidInput), match="none"):
            create_keystore(load_profile())

    def test_nobody_to_ask(self):
        """Without a file and a terminal, a keystore with a passphrase is neither made nor opened."""
        with pytest.raises(AccessDenied, match="SEALEDHEALTH_PASSPHRASE_FILE"):
            create_keystore(load_profile())
        assert not load_profile().keystore.exists()

    def test_prompt(self):
        """The prompt is asked once to make a keystore, and again by a later connection only when a key is needed."""
        asked = []

        def prompt(keystore, *, creating):
            asked.append(creating)
            return "typed by hand"

        profiles.set_passphrase_prompt(prompt)
        kek = Kek(bytes(16), bytes(16))
        create_keystore(load_profile()).service.create(kek)
        assert asked == [True]
        assert stat.S_IMODE(load_profile().keystore.stat().st_mode) == 0o700
        profiles.disconnect()
        service = connect(load_profile()).service
        assert asked == [True]
        service.generate(kek)
        assert asked == [True, False]
