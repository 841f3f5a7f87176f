"""The smallest rights on a bucket, as the page on stores says them, enforced by moto's own access control."""

import json
import re
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest
import servers
from datasets import local_profile, write_profile

from sealedhealth.dataset import Dataset
from sealedhealth.errors import AccessDenied
from sealedhealth.session import create_dataset
from sealedhealth.session.engine import Engine
from sealedhealth.stores import open_store

pytestmark = pytest.mark.moto

PAGE = (Path(__file__).parents[2] / "docs/howto/stores.md").read_text(encoding="utf-8")
URL = "s3://bucket/cardio"
REGION = "us-east-1"  # where a bucket needs no place to be named
ROLES = ("reader", "producer", "curator")


def actions():
    """The actions of each part by the table, in which "those" are the ones of the row above."""
    rows = re.findall(r"^\| (reader|producer|curator)[^|]*\| (those, )?(.*?) \|$", PAGE, re.MULTILINE)
    found, before = {}, []
    for role, more, said in rows:
        before = [*(before if more else []), *re.findall(r"`(s3:\w+)`", said)]
        found[role] = before
    return found


def policy(wanted):
    """A policy in the form of the page's example: what is about the bucket, and what is about its objects."""
    bucket = [action for action in wanted if action.startswith("s3:List")]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": bucket, "Resource": "arn:aws:s3:::bucket"},
            {
                "Effect": "Allow",
                "Action": [action for action in wanted if action not in bucket],
                "Resource": "arn:aws:s3:::bucket/cardio/*",
            },
        ],
    }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A moto of its own with a bucket, and the credentials of an owner and of a user for each part."""
    import botocore.session

    with servers.moto(tmp_path_factory.mktemp("moto")) as server:

        def client(service):
            return botocore.session.get_session().create_client(
                service, REGION, endpoint_url=server.endpoint_url,
                aws_access_key_id="root", aws_secret_access_key="root",
            )  # fmt: skip

        client("s3").create_bucket(Bucket="bucket")
        iam = client("iam")
        users = {}
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        for name, document in [("owner", everything), *((role, policy(actions()[role])) for role in ROLES)]:
            if name == "curator":
                # moto asks about a deletion in bulk as if it were one of the bucket, which S3 does not.
                document["Statement"].append(
                    {"Effect": "Allow", "Action": ["s3:DeleteObject*"], "Resource": "arn:aws:s3:::bucket"}
                )
            iam.create_user(UserName=name)
            iam.put_user_policy(UserName=name, PolicyName="store", PolicyDocument=json.dumps(document))
            key = iam.create_access_key(UserName=name)["AccessKey"]
            users[name] = {
                "endpoint_url": server.endpoint_url,
                "key": key["AccessKeyId"],
                "secret": key["SecretAccessKey"],
                "client_kwargs": {"region_name": REGION},
            }
        # From now on moto asks its policies.
        asked = urllib.request.Request(
            f"{server.endpoint_url}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(asked).close()
        yield users


@pytest.fixture
def become(guarded, monkeypatch):
    """Opens the dataset with the credentials of a part; the owner makes it, and leaves an upload behind."""
    write_profile(guarded["owner"], monkeypatch)
    store = open_store(URL, guarded["owner"])
    store.delete_many([name for name, _ in store.list("")])
    session = create_dataset(URL, local_profile())
    Dataset.open(URL).fs.pipe_file("a/one", b"first")
    unfinished = store.writer("objects/00/unfinished")
    unfinished.write(bytes(9 << 20))

    def become(role):
        write_profile(guarded[role], monkeypatch)
        # Another process: in this one the connections of the owner would go on.
        Engine.forget(URL, session.engine.profile)
        type(store.fs).clear_instance_cache()
        return Dataset.open(URL)

    yield become
    unfinished.discard()
    type(store.fs).clear_instance_cache()


def test_the_example_is_the_producers():
    """The policy that the page spells out is the one of its table."""
    [example] = re.findall(r"<!-- policy: producer -->\n```json\n(.*?)```", PAGE, re.DOTALL)
    assert json.loads(example) == policy(actions()["producer"])
    assert set(actions()) == set(ROLES)


def test_a_reader(become):
    """Opens, reads and verifies; puts nothing."""
    dataset = become("reader")
    assert dataset.fs.cat_file("a/one") == b"first"
    assert dataset.verify(data=True)
    with pytest.raises(AccessDenied):
        dataset.fs.pipe_file("a/two", b"second")


def test_a_producer(become):
    """Puts small and large files, and gives up; what it gave up stays for the curator."""
    dataset = become("producer")
    dataset.fs.pipe_file("a/two", b"second")
    dataset.fs.pipe_file("a/large", bytes(20 << 20))
    with pytest.raises(KeyError), dataset.transaction("given up"):
        dataset.fs.pipe_file("a/three", bytes(1 << 20))
        file = dataset.fs.open("a/four", "wb")
        file.write(bytes(20 << 20))
        raise KeyError
    assert dataset.fs.info("a/large")["size"] == 20 << 20
    assert not dataset.fs.exists("a/three")
    with pytest.raises(AccessDenied):
        dataset.session.engine.store.delete_many(["objects/00/any"])


def test_a_curator(become):
    """Deletes, writes checkpoints, and collects what others left, abandoned uploads too."""
    dataset = become("curator")
    dataset.rm("a/one")
    dataset.maintain(force=True)
    report = dataset.gc(grace=timedelta(0))
    assert (report.unfinished, report.dropped) == (1, 1)
