"""The local key service against a simple model: any order of rotating, rewrapping and retiring."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from sealedhealth.errors import InvalidInput, KeyRetired
from sealedhealth.keys import Kek, KekVersions, LocalKeyService

KEKS = [Kek(bytes([number]) * 16, b"c" * 16) for number in range(2)]


class KeyModel(RuleBasedStateMachine):
    """Two key-encryption keys; the model remembers every data key and every wrap ever made."""

    wraps = Bundle("wraps")

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.service = LocalKeyService.init(self.directory / "keystore", development=True)
        self.versions = {}
        self.bare = {}
        for kek in KEKS:
            self.service.create(kek)
            self.versions[kek] = KekVersions(1, 1)

    def teardown(self):
        """Leave nothing behind."""
        shutil.rmtree(self.directory)

    @rule(target=wraps, kek=st.sampled_from(KEKS))
    def generate(self, kek):
        """A new key is wrapped by the latest version."""
        key, wrapped = self.service.generate(kek)
        assert wrapped.version == self.versions[kek].latest
        self.bare[wrapped.key_id] = key.expose()
        return wrapped

    @rule(batch=st.lists(wraps, max_size=6))
    def unwrap(self, batch):
        """A batch opens, in order, when no version in it is retired; otherwise it raises."""
        if any(item.version < self.versions[item.kek].minimum for item in batch):
            with pytest.raises(KeyRetired):
                self.service.unwrap(batch)
        else:
            assert [key.expose() for key in self.service.unwrap(batch)] == [self.bare[item.key_id] for item in batch]

    @rule(target=wraps, wrapped=wraps)
    def rewrap(self, wrapped):
        """A rewrap moves to the latest version, unless the old one is retired."""
        if wrapped.version < self.versions[wrapped.kek].minimum:
            with pytest.raises(KeyRetired):
                self.service.rewrap([wrapped])
            return wrapped
        new = self.service.rewrap([wrapped])[0]
        assert (new.kek, new.key_id, new.version) == (wrapped.kek, wrapped.key_id, self.versions[wrapped.kek].latest)
        return new

    @rule(kek=st.sampled_from(KEKS))
    def rotate(self, kek):
        """A rotation adds one version."""
        old = self.versions[kek]
        self.versions[kek] = KekVersions(old.minimum, self.service.rotate(kek))
        assert self.versions[kek].latest == old.latest + 1

    @rule(kek=st.sampled_from(KEKS), minimum=st.integers(-1, 8))
    def retire(self, kek, minimum):
        """Retiring raises the minimum, never lowers it, and never beyond the latest."""
        old = self.versions[kek]
        if not 1 <= minimum <= old.latest:
            with pytest.raises(InvalidInput):
                self.service.retire(kek, minimum)
        else:
            self.service.retire(kek, minimum)
            self.versions[kek] = KekVersions(max(old.minimum, minimum), old.latest)

    @rule()
    def reopen(self):
        """Opening the keystore again changes nothing."""
        self.service = LocalKeyService.open(self.directory / "keystore")

    @invariant()
    def versions_agree(self):
        """The service and the model know the same versions."""
        assert {kek: self.service.versions(kek) for kek in KEKS} == self.versions


TestKeyModel = KeyModel.TestCase
TestKeyModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
