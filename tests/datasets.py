"""Datasets for tests: a development keystore in the test's own home, and a profile that reaches the host."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sealedhealth.dataset import DistributedTask
from sealedhealth.errors import AccessDenied
from sealedhealth.profiles import KeyContext, Profile, connect, connecting, create_keystore, load_profile
from sealedhealth.session import Session, create_dataset

ENVIRONMENT = {
    "key": "AWS_ACCESS_KEY_ID",
    "secret": "AWS_SECRET_ACCESS_KEY",
    "connection_string": "AZURE_STORAGE_CONNECTION_STRING",
}


def write_profile(options: Mapping[str, Any], monkeypatch: Any, *, names: tuple[str, ...] = ("local",)) -> None:
    """Write a profile file whose store options are *options*; credentials go where the clients look for them."""
    _forget_other_credentials(options)
    for option, variable in ENVIRONMENT.items():
        if option in options:
            monkeypatch.setenv(variable, options[option])
    plain = {name: value for name, value in options.items() if name not in ENVIRONMENT}
    lines = []
    for name in names:
        lines += [f"[profiles.{name}]", f"[profiles.{name}.store]"]
        lines += [f"{option} = {_toml(value)}" for option, value in plain.items()]
    path = Path(os.environ["SEALEDHEALTH_HOME"]) / "profiles.toml"
    path.write_text("\n".join(lines))
    monkeypatch.setenv("SEALEDHEALTH_CONFIG", str(path))


_credentials: dict[object, list[object]] = {}  # last used at each endpoint


def _forget_other_credentials(options: Mapping[str, Any]) -> None:
    """Drop connected clients when an endpoint gets other credentials: fsspec knows clients by options alone."""
    here = [options.get(option) for option in ENVIRONMENT]
    if _credentials.setdefault(options.get("endpoint_url"), here) != here:
        _credentials[options.get("endpoint_url")] = here
        from sealedhealth.stores.s3client import SteadyS3

        SteadyS3.clear_instance_cache()


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def local_profile() -> Profile:
    """The profile ``local``, with a keystore for tests; made when it is not there yet."""
    profile = load_profile("local")
    if not profile.keystore.exists():
        create_keystore(profile, development=True)
    return profile


def make_session(place: Any, monkeypatch: Any) -> Session:
    """A new, empty dataset at a place, opened by the profile ``local``."""
    write_profile(place.options, monkeypatch)
    return create_dataset(place.url, local_profile())


class WriteOnly:
    """A key service whose policy lets this identity wrap but not unwrap, as a producer's does."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def unwrap(self, wrapped: Any) -> Any:
        """Refuse."""
        raise AccessDenied("This role may not unwrap.")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)


def take_reading_away(profile: Profile) -> None:
    """From now on the identity of *profile* may write but not read, in this process."""
    context = connect(profile)
    for key, known in connecting._connections.items():
        if known is context:
            connecting._connections[key] = KeyContext(WriteOnly(context.service), context.anchors, context.registry)


def read_elsewhere(pickled: bytes, queue: Any) -> None:
    """What another process does with a pickled file system: it stands here, where that process can import it."""
    queue.put(pickle.loads(pickled).cat_file("a"))


def write_part(task: Any, files: Mapping[str, bytes]) -> Any:
    """A worker of a distributed write, in whatever process: its receipt."""
    with task.open() as part:
        part.put_many(files)
    return part.receipt


def write_part_of_json(task: str, files: Mapping[str, bytes]) -> str | None:
    """The same for engines that send JSON."""
    receipt = write_part(DistributedTask.from_json(task), files)
    return None if receipt is None else json.dumps(receipt.to_json())


def write_half_a_part(task: Any, started: str, size: int) -> None:
    """A worker that never finishes: it says so in the file *started*, and waits to be killed."""
    with task.open() as part:
        part.put_bytes("half", b"x" * size)
        Path(started).touch()
        time.sleep(600)
