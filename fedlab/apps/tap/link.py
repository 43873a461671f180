"""A SuperLink, asked for its next run. Whatever else listens at its address is told apart.

`flower-superexec` asks in the same words, and is handed the same tasks: of several that ask, each gets some.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.runtime_version_compatibility import (
    RuntimeVersionMetadata,
    get_runtime_version_incompatibility_exit_message,
)
from flwr.supercore.version import package_version

from fedlab.errors import BackendError, UsageError

SECONDS = 10.0
"""How long a SuperLink may take to answer."""
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")
_METHOD = "/flwr.proto.Runtime/AcquireTask"


@dataclass(frozen=True)
class Address:
    """Where a SuperLink listens, and how it is spoken to.

    Attributes:
        place: HOST:PORT.
        insecure: without TLS.
        certificates: a file of root certificates; the system's own if None.
        secret: a file with the secret of `--superexec-auth-secret-file`.
    """

    place: str
    insecure: bool = False
    certificates: Path | None = None
    secret: Path | None = None

    def check(self) -> None:
        """Whether this could be one.

        Raises:
            UsageError: no address, or options that contradict each other.
        """
        found = _ADDRESS.fullmatch(self.place)
        if found is None or not 0 < int(found["port"]) < 65536:
            raise UsageError(
                f"--superlink {self.place}; expected HOST:PORT, as in 127.0.0.1:8000, without http://"
            )
        if self.insecure and self.certificates is not None:
            raise UsageError("--insecure and --root-certificates; expected one of them: without TLS or with")
        files = {"--root-certificates": self.certificates, "--superexec-auth-secret-file": self.secret}
        for name, path in files.items():
            if path is not None and not path.is_file():
                raise UsageError(f"{name} {path}; there is no such file")
        self.verify()

    def verify(self) -> ssl.SSLContext | bool:
        """What certificates are held against.

        Raises:
            UsageError: the file holds none.
        """
        if self.certificates is None:
            return not self.insecure
        try:
            return ssl.create_default_context(cafile=self.certificates)
        except (ssl.SSLError, OSError) as error:
            raise UsageError(
                f"--root-certificates {self.certificates}; expected certificates in PEM: {error}"
            ) from None


@dataclass(frozen=True)
class Task:
    """A run that waits for its ServerApp to be executed, and the token to do it."""

    token: str
    run_id: str


class Link:
    """A connection to a SuperLink's Runtime API.

    Args:
        seconds: that it may take to answer.

    Raises:
        UsageError: the address or its options are mistaken.
    """

    def __init__(self, address: Address, seconds: float = SECONDS) -> None:
        address.check()
        self.address, self.seconds = address, seconds
        scheme = "http" if address.insecure else "https"
        interceptors: list[_Version | SuperExecAuthHttpInterceptor] = [_Version(address.place)]
        if address.secret is not None:
            interceptors.append(
                SuperExecAuthHttpInterceptor(
                    master_secret=address.secret.read_bytes(), protected_methods={_METHOD}
                )
            )
        self._client = RuntimeHttpClient(
            f"{scheme}://{address.place}",
            interceptors=interceptors,
            verify=address.verify(),
            timeout=seconds,
        )

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def next_task(self) -> Task | None:
        """The oldest run that waits for an executor; None if none does.

        Raises:
            BackendError: nobody answers, or not as a SuperLink of this version does; says which.
            UsageError: it wants TLS, another certificate or a secret.
        """
        try:
            found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        except httpx.HTTPStatusError as error:
            raise self._refused(error.response) from None
        except httpx.TransportError as error:
            raise self._unreached(error) from None
        except ValueError:
            raise self._stranger("its answer is not in the words of Flower's Runtime API") from None
        if not found.HasField("task") or not found.token:
            return None
        return Task(found.token, str(found.task.run_id))

    def _unreached(self, error: httpx.TransportError) -> BackendError | UsageError:
        place, text = self.address.place, str(error).rstrip(".") or type(error).__name__
        if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
            return self._stranger(f"it took the question and was silent for {self.seconds:g} seconds")
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return UsageError(
                f"{place} shows a certificate that is not trusted ({text}); give the file of the authority"
                " that signed it: --root-certificates FILE"
            )
        if "SSL" in text.upper() and not self.address.insecure:
            return UsageError(
                f"{place} does not speak TLS ({text}); if the SuperLink was started with --insecure, give"
                " --insecure here, too"
            )
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return BackendError(
                f"nobody listens at {place} ({text}); start the SuperLink there, as in\n"
                "  flower-superlink --insecure --isolation process --host 127.0.0.1 --port 8000"
            )
        tls = ". If it wants TLS, leave --insecure out and give --root-certificates FILE"
        return self._stranger(f"it hung up: {text}{tls if self.address.insecure else ''}")

    def _refused(self, response: httpx.Response) -> BackendError | UsageError:
        if response.status_code == httpx.codes.UNAUTHORIZED:
            given = "the given one is another" if self.address.secret is not None else "none was given"
            return UsageError(
                f"{self.address.place} asks executors for a secret, and {given}; give the file with which it"
                " was started: --superexec-auth-secret-file FILE"
            )
        return self._stranger(f"it answers {response.status_code} {response.reason_phrase}")

    def _stranger(self, why: str) -> BackendError:
        return BackendError(
            f"what listens at {self.address.place} is no SuperLink of Flower {package_version}: {why}.\n"
            "Expected the address of flower-superlink (its --host and --port). SuperLinks of other versions"
            " have other interfaces: install the same version of flwr on both sides"
        )


class _Version:
    """Says which version of Flower asks, as `flower-superexec` does; a SuperLink refuses others.

    Flower's own interceptor ends the process then, which is for nobody but this command to do.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._headers = dict(RuntimeVersionMetadata.from_local_component("SuperExec").as_metadata())

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers.update(self._headers)
        response = call_next(context)
        told = get_runtime_version_incompatibility_exit_message(response.text) if response.is_error else None
        if told is not None:
            raise BackendError(
                f"{self.place} is a SuperLink of another version than the flwr {package_version} that is"
                f" installed here: {told.strip()}\nInstall the same version of flwr on both sides"
            )
        return response
