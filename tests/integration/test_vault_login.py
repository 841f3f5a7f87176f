"""Logging in to a real OpenBao, each way; what is refused, and what is never looked at."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import os
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import servers
import vault_servers
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from vault_servers import KV, RawVault, VaultServer

from sealedhealth.errors import AccessDenied, InvalidInput, SealedHealthError, ServiceUnavailable
from sealedhealth.keys.vault import (
    AppRoleLogin,
    CertificateLogin,
    JwtLogin,
    KubernetesLogin,
    TokenFileLogin,
    TokenVariableLogin,
    VaultConfig,
    VaultKeyService,
)

pytestmark = pytest.mark.vault

POLICY = f'path "{KV}/data/anchors/*" {{ capabilities = ["create", "read"] }}'


@pytest.fixture(scope="module")
def policy(vault_server: VaultServer) -> str:
    """The name of a policy that allows anchors."""
    vault_server.raw.must("POST", "sys/policies/acl/login-tests", {"policy": POLICY})
    return "login-tests"


def works(service: VaultKeyService) -> bool:
    """Whether the identity may do what the policy allows."""
    dataset_id = secrets.token_bytes(16)
    service.create_anchor(dataset_id, 0, b"link")
    return service.read_anchor(dataset_id, 0) is not None


def secret_file(folder: Path, content: str, mode: int = 0o600) -> Path:
    """A file that only its owner may read."""
    path = folder / secrets.token_hex(4)
    path.touch(0o600)
    path.write_text(content)
    path.chmod(mode)
    return path


# --- AppRole ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def approle(vault_server: VaultServer, policy: str) -> str:
    """An AppRole called producer-x; gives its role id. Secret ids work once."""
    raw = vault_server.raw
    raw.must("POST", "sys/auth/approle", {"type": "approle"})
    for name in ("producer-x", "other"):
        body = {"token_policies": policy, "secret_id_num_uses": 1, "token_ttl": "1h"}
        raw.must("POST", f"auth/approle/role/{name}", body)
    return str(raw.must("GET", "auth/approle/role/producer-x/role-id")["data"]["role_id"])


def wrapped_secret_id(server: VaultServer, role: str = "producer-x", ttl: str = "60s") -> str:
    """A wrapping token of a fresh secret id."""
    answer = server.raw.must("POST", f"auth/approle/role/{role}/secret-id", {}, wrap_ttl=ttl)
    return str(answer["wrap_info"]["token"])


class TestAppRole:
    """AppRole with a response-wrapped secret id."""

    def test_works(self, connect_vault, vault_server: VaultServer, approle: str, tmp_path: Path):
        """The wrap is looked up, opened once and used."""
        file = secret_file(tmp_path, wrapped_secret_id(vault_server) + "\n")
        service = connect_vault(login=AppRoleLogin(approle, file, role_name="producer-x"))
        assert works(service)
        calls = service.client.calls
        assert calls["POST sys/wrapping/lookup"] == calls["POST sys/wrapping/unwrap"] == 1
        assert calls["POST auth/approle/login"] == 1

    def test_opened_before_is_interception(
        self, connect_vault, vault_server: VaultServer, approle: str, tmp_path: Path
    ):
        """A wrap that somebody opened before is reported as interception, not as a wrong password."""
        token = wrapped_secret_id(vault_server)
        RawVault(vault_server.address).must("POST", "sys/wrapping/unwrap", {}, token=token)
        service = connect_vault(login=AppRoleLogin(approle, secret_file(tmp_path, token)))
        with pytest.raises(AccessDenied, match="interception"):
            works(service)
        assert "POST auth/approle/login" not in service.client.calls

    def test_opened_between_lookup_and_opening(
        self, connect_vault, vault_server: VaultServer, vault_proxy, approle: str, tmp_path: Path
    ):
        """Also when it is opened by somebody else just after we looked."""
        token = wrapped_secret_id(vault_server)
        service = connect_vault(address=vault_proxy.address, login=AppRoleLogin(approle, secret_file(tmp_path, token)))

        def steal(body: bytes) -> bytes:
            RawVault(vault_server.address).must("POST", "sys/wrapping/unwrap", {}, token=token)
            return body

        vault_proxy.faults = [vault_servers.Fault(change=steal, where="wrapping/lookup")]
        with pytest.raises(AccessDenied, match="interception"):
            works(service)

    def test_second_process_with_the_same_wrap(
        self, connect_vault, vault_server: VaultServer, approle: str, tmp_path: Path
    ):
        """Whoever comes second with the same file hears of interception."""
        file = secret_file(tmp_path, wrapped_secret_id(vault_server))
        assert works(connect_vault(login=AppRoleLogin(approle, file)))
        with pytest.raises(AccessDenied, match="interception"):
            works(connect_vault(login=AppRoleLogin(approle, file)))

    def test_expired(self, connect_vault, vault_server: VaultServer, approle: str, tmp_path: Path):
        """A wrap that ran out cannot be told from one that was opened: both are said."""
        file = secret_file(tmp_path, wrapped_secret_id(vault_server, ttl="1s"))
        time.sleep(1.6)
        with pytest.raises(AccessDenied, match="expired"):
            works(connect_vault(login=AppRoleLogin(approle, file)))

    @pytest.mark.parametrize("what", ["another role", "a token", "a key"])
    def test_wrap_of_something_else(
        self, connect_vault, vault_server: VaultServer, approle: str, tmp_path: Path, what: str
    ):
        """A wrap that was put there by somebody else is not even opened."""
        raw = vault_server.raw
        if what == "another role":
            token = wrapped_secret_id(vault_server, "other")
        elif what == "a token":
            token = raw.must("POST", "auth/token/create", {}, wrap_ttl="60s")["wrap_info"]["token"]
        else:
            token = raw.must("POST", "sys/wrapping/wrap", {"secret_id": "x"}, wrap_ttl="60s")["wrap_info"]["token"]
        login = AppRoleLogin(approle, secret_file(tmp_path, token), role_name="producer-x")
        with pytest.raises(AccessDenied, match="does not wrap a secret id"):
            works(connect_vault(login=login))
        raw.must("POST", "sys/wrapping/lookup", {"token": token})  # still unopened

    def test_bare_secret_id(self, connect_vault, vault_server: VaultServer, approle: str, tmp_path: Path):
        """A bare secret id is taken when the profile says that it is one."""
        secret = vault_server.raw.must("POST", "auth/approle/role/producer-x/secret-id", {})["data"]["secret_id"]
        login = AppRoleLogin(approle, secret_file(tmp_path, secret), wrapped=False)
        assert login.repeatable
        assert works(connect_vault(login=login))
        with pytest.raises(AccessDenied, match="refused the login"):  # the role's secret ids work once
            works(connect_vault(login=login))

    def test_wrong_role(self, connect_vault, vault_server: VaultServer, approle: str, tmp_path: Path):
        """A secret id does not open another role."""
        login = AppRoleLogin("no-such-role", secret_file(tmp_path, wrapped_secret_id(vault_server)))
        with pytest.raises(AccessDenied, match="refused the login"):
            works(connect_vault(login=login))


# --- JWT -------------------------------------------------------------------------------------------


class Issuer:
    """Signs JWTs."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())

    @property
    def pem(self) -> str:
        """The public half."""
        public = self.key.public_key()
        return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    def token(self, **claims: object) -> str:
        """A signed JWT."""
        now = int(time.time())
        payload = {"iss": "https://issuer", "aud": "vault", "sub": "job", "iat": now, "exp": now + 600, **claims}
        head = {"alg": "ES256", "typ": "JWT"}
        text = ".".join(_url64(json.dumps(part).encode()) for part in (head, payload))
        r, s = decode_dss_signature(self.key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_url64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def issuer(vault_server: VaultServer, policy: str) -> Issuer:
    """An issuer whose JWTs the server takes, for jobs of one project."""
    issuer = Issuer()
    raw = vault_server.raw
    raw.must("POST", "sys/auth/jwt", {"type": "jwt"})
    raw.must("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [issuer.pem], "bound_issuer": "https://issuer"})
    role = {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": ["vault"],
        "bound_claims": {"project": "cardio"},
        "token_policies": [policy],
        "token_ttl": "2s",
        "token_max_ttl": "4s",
    }
    raw.must("POST", "auth/jwt/role/job", role)
    return issuer


class TestJwt:
    """JWT, as OIDC gives it to jobs."""

    def test_works_and_works_again(self, connect_vault, issuer: Issuer, tmp_path: Path):
        """It logs in, and again when the token has come to the end of its longest life."""
        file = secret_file(tmp_path, issuer.token(project="cardio"))
        service = connect_vault(login=JwtLogin("job", file))
        end = time.monotonic() + 6
        while time.monotonic() < end:
            assert works(service)
            time.sleep(0.5)
        assert service.client.calls["POST auth/jwt/login"] >= 2

    @pytest.mark.parametrize(
        "claims",
        [{"project": "other"}, {}, {"project": "cardio", "aud": "else"}, {"project": "cardio", "exp": 1_000_000_000}],
        ids=["claim", "no claim", "audience", "expired"],
    )
    def test_refused(self, connect_vault, issuer: Issuer, tmp_path: Path, claims: dict[str, object]):
        """What the role does not allow is refused, once, and the JWT is not in the error."""
        token = issuer.token(**claims)
        service = connect_vault(login=JwtLogin("job", secret_file(tmp_path, token)))
        with pytest.raises(AccessDenied, match="refused the login") as caught:
            works(service)
        assert token not in str(caught.value)
        assert service.client.calls["POST auth/jwt/login"] == 1


# --- Kubernetes --------------------------------------------------------------------------------------


def test_kubernetes_sends_the_pods_token(connect_vault, vault_proxy, vault_server: VaultServer, tmp_path: Path):
    """The service account's token goes to the login of the mount; there is no cluster here to check it."""
    answer = {"auth": {"client_token": vault_server.raw.token_for(policy=POLICY), "lease_duration": 3600}}
    vault_proxy.faults = [
        vault_servers.Fault(status=200, body=json.dumps(answer).encode(), where="auth/kubernetes/login")
    ]
    file = secret_file(tmp_path, "aaa.bbb.ccc", mode=0o644)
    service = connect_vault(address=vault_proxy.address, login=KubernetesLogin("job", file))
    assert works(service)
    assert json.loads(vault_proxy.seen[0].body) == {"role": "job", "jwt": "aaa.bbb.ccc"}


# --- TLS -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_vault(tmp_path_factory: pytest.TempPathFactory):
    """A server with TLS of its own authority, which knows a client by its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    authority = _Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    authority.issue(folder, "server", "localhost")
    authority.issue(folder, "job", "job.hospital.example")
    authority.issue(folder, "stranger", "stranger.example")
    (port,) = servers.free_ports(1)
    address = f"https://localhost:{port}"
    config = folder / "server.hcl"
    config.write_text(f"""
storage "inmem" {{}}
listener "tcp" {{
  address       = "127.0.0.1:{port}"
  tls_cert_file = "{folder}/server.pem"
  tls_key_file  = "{folder}/server-key.pem"
}}
api_addr = "{address}"
""")
    command = [vault_servers.bao(), "server", f"-config={config}"]
    with servers._running(command, folder) as process:
        raw = _TlsVault(address, str(folder / "ca.pem"))
        raw.wait(process)
        made = raw.must("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        raw.token = made["root_token"]
        raw.must("PUT", "sys/unseal", {"key": made["keys"][0]})
        deadline = time.monotonic() + 20
        while raw("GET", "sys/health")[0] != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        raw.must("POST", f"sys/mounts/{KV}", {"type": "kv", "options": {"version": "2"}})
        raw.must("POST", "sys/policies/acl/login-tests", {"policy": POLICY})
        raw.must("POST", "sys/auth/cert", {"type": "cert"})
        certificate = {
            "certificate": authority.pem.decode(),
            "allowed_dns_sans": ["job.hospital.example"],
            "token_policies": ["login-tests"],
        }
        raw.must("POST", "auth/cert/certs/job", certificate)
        yield address, folder


class _TlsVault(RawVault):
    def __init__(self, address: str, ca_file: str) -> None:
        super().__init__(address)
        self._ca_file = ca_file

    def __call__(self, method, path, body=None, *, token=None, wrap_ttl=""):
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(
                method,
                f"{self.address}/v1/{path}",
                json=body,
                headers={"X-Vault-Token": self.token},
                verify=self._ca_file,
                timeout=10,
            )
            return answer.status_code, answer.json() if answer.content else {}

    def wait(self, process) -> None:
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            try:
                self("GET", "sys/seal-status")
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError("the server did not start")


class _Authority:
    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        builder = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self.pem = self._sign(builder.add_extension(identifier, False))

    def issue(self, folder: Path, name: str, host: str) -> None:
        """A certificate and its key as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        use = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = self._builder(subject, key).add_extension(names, False).add_extension(use, False)
        (folder / f"{name}.pem").write_bytes(self._sign(builder.add_extension(issuer, False)))
        pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{name}-key.pem").write_bytes(key.private_bytes(*pem))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class TestCertificate:
    """Mutual TLS with an authority of one's own."""

    @staticmethod
    def connect(tls_vault, client: str = "", **more: object) -> VaultKeyService:
        """With one of the clients' certificates."""
        address, folder = tls_vault
        files = {}
        if client:
            files = {"client_certificate": folder / f"{client}.pem", "client_key": folder / f"{client}-key.pem"}
        settings = {"address": address, "ca_file": folder / "ca.pem", "retry_s": 0.2, **files, **more}
        return VaultKeyService(VaultConfig(**settings), CertificateLogin("job"))

    def test_works(self, tls_vault):
        """The certificate logs in."""
        with self.connect(tls_vault, "job") as service:
            assert works(service)

    @pytest.mark.parametrize("client", ["stranger", ""])
    def test_other_certificate(self, tls_vault, client: str):
        """Another certificate of the same authority, or none, does not."""
        with self.connect(tls_vault, client) as service, pytest.raises(AccessDenied):
            works(service)

    def test_unknown_authority(self, tls_vault, monkeypatch: pytest.MonkeyPatch):
        """A server of an authority that is not named is not spoken to, whatever the environment says."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls_vault[1] / "ca.pem"))
        with (
            self.connect(tls_vault, "job", ca_file=None) as service,
            pytest.raises(ServiceUnavailable, match="could not prove who it is"),
        ):
            works(service)

    def test_other_host_name(self, tls_vault):
        """A certificate for another name is refused."""
        address, _ = tls_vault
        other = address.replace("localhost", "localhost.localdomain")
        with self.connect(tls_vault, "job", address=other) as service, pytest.raises(ServiceUnavailable):
            works(service)


# --- a token that was given ---------------------------------------------------------------------------


class TestGivenToken:
    """A token from a file, or from a variable that is named."""

    def test_variable(self, connect_vault, vault_server: VaultServer, monkeypatch: pytest.MonkeyPatch):
        """The variable that the profile names is read."""
        monkeypatch.setenv("OUR_TOKEN", vault_server.raw.token_for(policy=POLICY))
        assert works(connect_vault(login=TokenVariableLogin("OUR_TOKEN")))

    def test_nothing_implicit(
        self, connect_vault, vault_server: VaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        """Neither ``VAULT_TOKEN`` and its relatives nor ``~/.vault-token`` nor a proxy variable counts for anything."""
        (tmp_path / ".vault-token").write_text(vault_server.root_token)
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("VAULT_TOKEN", "BAO_TOKEN"):
            monkeypatch.setenv(name, vault_server.root_token)
        for name in ("VAULT_ADDR", "BAO_ADDR", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv("VAULT_NAMESPACE", "nonsense")
        monkeypatch.setenv("NO_PROXY", "")
        with pytest.raises(AccessDenied, match="holds no token"):
            works(connect_vault(login=TokenVariableLogin("OUR_TOKEN")))
        assert works(connect_vault())

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602])
    def test_file_that_others_may_read(self, connect_vault, vault_server: VaultServer, tmp_path: Path, mode: int):
        """A token file open to others is refused, before anything is sent."""
        file = secret_file(tmp_path, vault_server.root_token, mode)
        service = connect_vault(login=TokenFileLogin(file))
        with pytest.raises(AccessDenied, match="Others"):
            works(service)
        assert service.calls == 0

    @pytest.mark.parametrize("content", ["", "two words", "é", "a\nb", "x" * 70_000, "\0"])
    def test_file_with_something_else(self, connect_vault, tmp_path: Path, content: str):
        """A file that holds no token, or more than one, is refused, and not shown."""
        service = connect_vault(login=TokenFileLogin(secret_file(tmp_path, content)))
        with pytest.raises(InvalidInput) as caught:
            works(service)
        assert not content.strip() or content not in str(caught.value)
        assert service.calls == 0

    def test_no_file(self, connect_vault, tmp_path: Path):
        """No file, a directory, a pipe: said, and not waited for."""
        os.mkfifo(tmp_path / "pipe", 0o600)
        for path in (tmp_path / "nothing", tmp_path, tmp_path / "pipe"):
            with pytest.raises(SealedHealthError):
                works(connect_vault(login=TokenFileLogin(path)))


# --- residency ------------------------------------------------------------------------------------------


class Trap:
    """Listens, and remembers whether anybody came."""

    def __init__(self) -> None:
        self.visits = 0
        trap = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                trap.visits += 1
                self.send_error(404)

            do_POST = do_LIST = do_GET  # noqa: N815 - as http.server wants it

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.port = self.server.server_address[1]


def test_host_that_is_not_allowed_gets_no_byte():
    """An address outside the allowed hosts is refused before there is a connection; spelling does not matter."""
    trap = Trap()
    try:
        for host in ("localhost", "LOCALHOST", "127.0.0.1"):
            with pytest.raises(InvalidInput, match="does not allow"):
                VaultConfig(f"http://{host}:{trap.port}", allowed_hosts=("vault.hopital.fr",))
        allowed = VaultConfig(f"http://LocalHost:{trap.port}", allowed_hosts=("localhost",), retry_s=0)
        assert trap.visits == 0
        with VaultKeyService(allowed, TokenVariableLogin("NOT_SET")) as service, pytest.raises(AccessDenied):
            works(service)
        assert trap.visits == 0
    finally:
        trap.server.shutdown()
        trap.server.server_close()
