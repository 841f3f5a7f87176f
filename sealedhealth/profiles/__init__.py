"""Profiles: names that stand for a key service, store options and places on this machine.

A profile holds no secret.  It is read from a TOML file, strictly: a key that is not
known is refused, since a misspelt setting that is silently ignored can weaken what
the user believes is in force::

    [profiles.chu-lille]
    keystore = "~/keys/chu-lille"           # default: <home>/keystore
    author = "author"                       # name of the signing key
    passphrase_file = "/run/secrets/phrase" # default: ask on the terminal
    prefix = "lille"                        # puts nothing elsewhere in a dataset (default: no limit)

    [profiles.chu-lille.store]              # options of the object store's file system
    endpoint_url = "https://s3.example.org"

    [profiles.chu-lille.residency]          # where data may be written, and what is declared of it
    jurisdiction = "FR"
    allowed_endpoints = ["s3.example.org"]

    [profiles.chu-lille.datasets]           # ids pinned by hand, beside the registry's
    "s3://bucket/cardio-2026" = "8d1c…32 hexadecimal digits"

A host that is known by name needs no address, and its country is known::

    [profiles.move]

    [profiles.move.store]
    preset = "scaleway"
    region = "fr-par"

    [profiles.move.residency]
    allowed_jurisdictions = ["FR"]

A profile whose keys are in a Vault says which one, under whose law it runs, and the only
hosts that may ever be spoken to; anything else is refused before a byte is sent::

    [profiles.cardio-job]
    keys = "vault"
    author = "job-7"

    [profiles.cardio-job.vault]
    address = "https://vault.example.fr:8200"
    allowed_hosts = ["vault.example.fr"]
    jurisdiction = "FR"
    ca_file = "/etc/sealedhealth/vault-ca.pem"   # default: the system's
    namespace = "health"                         # default: none
    role = "reader"                              # what `doctor` measures its rights against

    [profiles.cardio-job.vault.auth]
    method = "approle"                           # or jwt, kubernetes, cert, token
    role_id = "6e4b…"
    wrapped_secret_id_file = "/run/secrets/wrapped-secret-id"

``local`` exists without any file.  Nothing here ever falls back to a development
keystore: that has to be asked for by name when a keystore is made.
"""

from __future__ import annotations

from sealedhealth.profiles.connecting import (
    MIN_PASSPHRASE,
    KeyContext,
    PassphrasePrompt,
    change_passphrase,
    connect,
    create_keystore,
    disconnect,
    set_passphrase_prompt,
    substitute,
)
from sealedhealth.profiles.places import config_path, home
from sealedhealth.profiles.profile import Profile
from sealedhealth.profiles.reading import DEFAULT_PROFILE, load_profile, profile_names

__all__ = [
    "DEFAULT_PROFILE",
    "MIN_PASSPHRASE",
    "KeyContext",
    "PassphrasePrompt",
    "Profile",
    "change_passphrase",
    "config_path",
    "connect",
    "create_keystore",
    "disconnect",
    "home",
    "load_profile",
    "profile_names",
    "set_passphrase_prompt",
    "substitute",
]
