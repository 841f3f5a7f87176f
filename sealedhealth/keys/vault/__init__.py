"""The key service in an OpenBao or HashiCorp Vault: keys never leave it, anchors and registry lie beside them.

Needs ``hvac`` (``pip install "sealedhealth[vault]"``).
"""

from __future__ import annotations

from sealedhealth.keys.vault.calls import Call
from sealedhealth.keys.vault.client import VaultClient
from sealedhealth.keys.vault.config import VaultConfig
from sealedhealth.keys.vault.login import (
    AppRoleLogin,
    CertificateLogin,
    JwtLogin,
    KubernetesLogin,
    Login,
    TokenFileLogin,
    TokenVariableLogin,
)
from sealedhealth.keys.vault.service import VaultKeyService

__all__ = [
    "AppRoleLogin",
    "Call",
    "CertificateLogin",
    "JwtLogin",
    "KubernetesLogin",
    "Login",
    "TokenFileLogin",
    "TokenVariableLogin",
    "VaultClient",
    "VaultConfig",
    "VaultKeyService",
]
