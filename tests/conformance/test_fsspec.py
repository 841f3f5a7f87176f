"""fsspec's own suites for file systems, whole, on memory, local disk and S3.

With names relative to the dataset, as ``Dataset.fs`` has them, and made from a URL, with names as the store has them.
"""

import pytest
from datasets import make_session
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from sealedhealth.fs import SealedFileSystem

# The suites write file by file, as only a test should.
pytestmark = pytest.mark.filterwarnings("ignore::sealedhealth.fs.ManyCommitsWarning")

HOSTS = ["memory", "local", pytest.param("moto", marks=pytest.mark.moto), "local by URL"]


class Places(AbstractFixtures):
    """A new dataset for each test, on each host in turn."""

    @pytest.fixture(params=HOSTS)
    def fs(self, request, make_place, monkeypatch):
        """The file system under test."""
        kind, _, by_url = request.param.partition(" ")
        session = make_session(make_place(kind), monkeypatch)
        return SealedFileSystem(session.url) if by_url else SealedFileSystem(session=session)

    @pytest.fixture
    def fs_path(self, fs):
        """A directory to work in, under the names that this file system has."""
        return fs._name("work")


class TestCopy(Places, AbstractCopyTests):
    """Copies within the file system."""


class TestGet(Places, AbstractGetTests):
    """Copies to local files."""


class TestPut(Places, AbstractPutTests):
    """Copies of local files."""


class TestOpen(Places, AbstractOpenTests):
    """Opening."""


class TestPipe(Places, AbstractPipeTests):
    """Writing contents."""
