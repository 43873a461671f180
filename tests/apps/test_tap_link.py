"""What listens at HOST:PORT: a SuperLink, or something else, each with its own message and exit code."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.proto.task_pb2 import Task
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.version import package_version

from fedlab.apps.tap.link import Address, Link
from fedlab.errors import BackendError, FedlabError, UsageError

PATH = "/v1/runtime/acquire-task"


class Server(HTTPServer):
    """Answers each POST with what the test says, and keeps what it was asked."""

    status, body = 200, b""
    asked: bytes = b""
    path = ""
    headers: Any = None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.asked = self.rfile.read(int(self.headers["content-length"]))
        self.server.path, self.server.headers = self.path, self.headers
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *arguments: Any) -> None: ...


@contextmanager
def listening(status: int = 200, body: bytes = b"") -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.status, server.body = status, body
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(port: int, *, insecure: bool = True, **options: Any) -> Any:
    link = Link(Address(f"127.0.0.1:{port}", insecure=insecure, **options), seconds=0.5)
    with closing(link):
        return link.next_task()


def refused(port: int, kind: type[FedlabError], **options: Any) -> str:
    with pytest.raises(FedlabError) as caught:
        ask(port, **options)
    assert type(caught.value) is kind
    return str(caught.value)


def test_a_superlink_hands_out_a_run_with_its_token() -> None:
    answer = AcquireTaskResponse(token="secret", task=Task(task_id=5, run_id=77))
    with listening(body=answer.SerializeToString()) as server:
        task = ask(server.server_port)
    assert (task.token, task.run_id) == ("secret", "77")
    assert server.path == PATH, "or Flower asks elsewhere"
    asked = AcquireTaskRequest.FromString(server.asked)
    assert list(asked.supported_task_types) == ["flwr-serverapp"], "what else waits is left to others"
    assert package_version in dict(server.headers).values(), "it says which version of Flower asks"


def test_no_run_waits() -> None:
    with listening() as server:
        assert ask(server.server_port) is None


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = refused(port, BackendError)
    assert f"nobody listens at 127.0.0.1:{port}" in text and "flower-superlink" in text


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (404, b'{"detail":"Not Found"}', "it answers 404 Not Found"),
        (501, b"", "it answers 501 Not Implemented"),
        (200, b"<html>hello</html>", "not in the words of Flower's Runtime API"),
    ],
)
def test_a_web_server(status: int, body: bytes, told: str) -> None:
    with listening(status, body) as server:
        text = refused(server.server_port, BackendError)
    assert f"is no SuperLink of Flower {package_version}" in text and told in text


def test_a_silent_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = refused(silent.getsockname()[1], BackendError)
    assert "was silent for 0.5 seconds" in text


def test_a_superlink_of_another_version() -> None:
    told = {
        "code": ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE.value,
        "public_message": "Incompatible.",
        "public_details": "SuperLink version 1.42.0 detected a runtime version mismatch",
    }
    with listening(412, json.dumps(told).encode()) as server:
        text = refused(server.server_port, BackendError)
    assert "SuperLink of another version than the flwr" in text and "1.42.0 detected" in text


def test_a_superlink_of_the_days_of_grpc() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        text = refused(port, BackendError)
    finally:
        server.stop(None).wait()
    assert "is no SuperLink of Flower" in text and "other interfaces" in text


def test_tls_is_asked_of_one_that_does_without() -> None:
    with listening() as server:
        text = refused(server.server_port, UsageError, insecure=False)
    assert "does not speak TLS" in text and "give --insecure here, too" in text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in the same file."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def encrypted(server: Server, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)


def test_tls_with_and_without_trust(certificate: Path) -> None:
    with listening() as server:
        encrypted(server, certificate)
        assert ask(server.server_port, insecure=False, certificates=certificate) is None
        text = refused(server.server_port, UsageError, insecure=False)
        assert "certificate that is not trusted" in text and "--root-certificates FILE" in text
        text = refused(server.server_port, BackendError)
        assert "it hung up" in text and "If it wants TLS, leave --insecure out" in text


def test_a_secret_is_asked_for_and_sent(tmp_path: Path) -> None:
    with listening(401) as server:
        assert "none was given" in refused(server.server_port, UsageError)
        secret = tmp_path / "secret"
        secret.write_bytes(b"0" * 32)
        assert "the given one is another" in refused(server.server_port, UsageError, secret=secret)
        signed = [name for name in server.headers if "signature" in name.lower()]
        assert signed, "or Flower signs in another way"


@pytest.mark.parametrize("place", ["8000", "http://127.0.0.1:8000", "host:0", "host:65536", ":8000", "a b:1"])
def test_what_is_no_address(place: str) -> None:
    with pytest.raises(UsageError, match="expected HOST:PORT"):
        Address(place, insecure=True).check()


def test_options_that_contradict_each_other(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(UsageError, match="there is no such file"):
        Address("h:1", certificates=file).check()
    file.write_text("no certificate")
    with pytest.raises(UsageError, match="without TLS or with"):
        Address("h:1", insecure=True, certificates=file).check()
    with pytest.raises(UsageError, match="expected certificates in PEM"):
        Address("h:1", certificates=file).check()
    with pytest.raises(UsageError, match="superexec-auth-secret-file"):
        Address("h:1", insecure=True, secret=tmp_path / "none").check()
