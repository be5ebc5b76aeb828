"""Health probes of real workloads: what answers is healthy, what does not is not, and why is said."""

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from tests.dataplane import packets
from tests.dataplane.contract_hosts import EbpfHost, Host, ebpf_pair
from tests.dataplane.test_contract import VNI, gateways, port, put

from alcor.dataplane.base import Address, LocalPort, Probe
from alcor.dataplane.ebpf.probing import is_expected
from alcor.dataplane.endpoints import EndpointKey
from alcor.model.addresses import Mac, parse_ip

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: the ebpf driver needs root and BPF"),
]
VIP_MAC = Mac(packets.mac(200))
VIPS = {4: "10.0.0.200", 6: "2001:db8::c8"}
Serve = Callable[[socket.socket], object]


@pytest.fixture(scope="module")
def host() -> Iterator[EbpfHost]:
    """A host with one port of both families, and a load balancer's addresses."""
    with ebpf_pair() as (first, _):
        assert isinstance(first, EbpfHost)
        vips = tuple((EndpointKey(VNI, parse_ip(vip)), VIP_MAC) for vip in VIPS.values())
        put(first, workload(), put_gateways=gateways(), put_vips=vips)
        yield first


def workload() -> LocalPort:
    six = Address(parse_ip("2001:db8::7"), 64, None)
    one = port(7)
    return msgspec.structs.replace(one, addresses=(*one.addresses, six), balanced=True)


def answer(host: Host, kind: str, number: int, version: int = 4, timeout_s: float = 2.0, **more: str) -> str:
    """The outcome of a probe."""
    ifindex = host.driver.interface_of(workload().id)
    assert ifindex is not None
    probe = Probe(
        ifindex,
        workload().mac,
        parse_ip("10.0.0.7" if version == 4 else "2001:db8::7"),
        number,
        VIP_MAC,
        parse_ip(VIPS[version]),
        kind,
        timeout_s,
        http_method=more.get("http_method", "GET"),
        url_path=more.get("url_path", "/"),
        expected_codes=more.get("expected_codes", "200"),
    )
    told = threading.Event()
    found: list[str] = []

    def done(reason: str) -> None:
        found.append(reason)
        told.set()

    host.driver.prober.start(probe, done)
    assert told.wait(10)
    return found[0]


@contextmanager
def serving(host: EbpfHost, number: int, serve: Serve, kind: int = socket.SOCK_STREAM) -> Iterator[None]:
    """A server in the workload, of both families."""

    def listen() -> socket.socket:
        one = socket.socket(socket.AF_INET6, kind)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.bind(("::", number))
        if kind == socket.SOCK_STREAM:
            one.listen(16)
        return one

    with host.in_workload(workload(), listen) as listener:
        ended = threading.Event()

        def run() -> None:
            listener.settimeout(0.1)
            while not ended.is_set():
                try:
                    connection, _ = listener.accept() if kind == socket.SOCK_STREAM else (listener.dup(), None)
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(2)
                    try:
                        serve(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=run)
        thread.start()
        yield
        ended.set()
        thread.join()


def http(status: int) -> Serve:
    """Answers a request with that status, in pieces."""

    def serve(connection: socket.socket) -> None:
        request = connection.recv(4096)
        assert request.startswith(b"GET /health HTTP/1.0\r\n")
        connection.sendall(b"HTTP/1.1 ")
        connection.sendall(f"{status} whatever\r\nContent-Length: 2000\r\n\r\n".encode() + bytes(2000))

    return serve


@pytest.mark.parametrize("version", [4, 6])
def test_tcp(host: EbpfHost, version: int) -> None:
    """A port that is open is healthy, one that is closed is refused at once."""
    with serving(host, 8000, lambda connection: None):
        assert "" == answer(host, "TCP", 8000, version)
    assert "the connection is refused" == answer(host, "TCP", 8001, version)


@pytest.mark.parametrize("version", [4, 6])
def test_ping_and_udp(host: EbpfHost, version: int) -> None:
    """An echo is answered; a UDP port is healthy unless it is unreachable."""
    assert "" == answer(host, "PING", 1, version)
    with serving(host, 5300, lambda connection: None, socket.SOCK_DGRAM):
        assert "" == answer(host, "UDP-CONNECT", 5300, version, timeout_s=0.3)
    assert "the port is unreachable" == answer(host, "UDP-CONNECT", 5301, version)


def test_http(host: EbpfHost) -> None:
    """The status is what counts; who does not speak HTTP, or says nothing, is not healthy."""
    with serving(host, 8080, http(200)):
        assert "" == answer(host, "HTTP", 8080, url_path="/health")
    with serving(host, 8081, http(503)):
        assert "HTTP status 503" == answer(host, "HTTP", 8081, 6, url_path="/health")
        assert "" == answer(host, "HTTP", 8081, url_path="/health", expected_codes="200,500-504")
    with serving(host, 8082, lambda connection: connection.sendall(b"SSH-2.0\r\n")):
        assert "the answer is not HTTP" == answer(host, "HTTP", 8082)
    with serving(host, 8083, lambda connection: None):
        assert "the connection ended before an answer" == answer(host, "HTTP", 8083)
    with serving(host, 8084, lambda connection: threading.Event().wait(1)):
        assert "no answer within 0.4 s" == answer(host, "HTTP", 8084, timeout_s=0.4)


def test_https(host: EbpfHost, tmp_path: Path) -> None:
    """TLS, whoever's certificate it is, and HTTP inside."""
    pair = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=member", "-days", "1"),
            *("-keyout", str(pair[0]), "-out", str(pair[1])),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair[1], pair[0])

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(4096)
            secure.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with serving(host, 8443, serve):
        assert "" == answer(host, "HTTPS", 8443, timeout_s=5.0, expected_codes="204")
    with serving(host, 8444, lambda connection: connection.sendall(b"plain\r\n")):
        assert answer(host, "HTTPS", 8444).startswith("TLS: ")


def test_who_is_gone_does_not_answer(host: EbpfHost) -> None:
    """An address that nobody has: nothing within the time."""
    ifindex = host.driver.interface_of(workload().id)
    assert ifindex is not None
    told: list[str] = []
    done = threading.Event()
    probe = Probe(ifindex, workload().mac, parse_ip("10.0.0.99"), 80, VIP_MAC, parse_ip(VIPS[4]), "TCP", 0.3)
    host.driver.prober.start(probe, lambda reason: (told.append(reason), done.set())[-1])  # type: ignore[func-returns-value]
    assert done.wait(5)
    assert ["no answer within 0.3 s"] == told


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [(200, "200", True), (201, "200", False), (202, "200,202", True), (203, "200-204", True), (205, "200-204", False)],
)
def test_expected_codes(code: int, text: str, expected: bool) -> None:
    """A code, a list, a range."""
    assert expected == is_expected(code, text)
