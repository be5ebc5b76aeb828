"""The relay is no open proxy: controllers only, to agents only, so many at a time; what it carries it cannot read."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from tests.loops.region import Host, Region

from alcor.agent.relay import Relay, RelayLimits
from alcor.kit import pki
from alcor.paths.link import AGENT, CONTROLLER, TARGET_HEADER, load_credentials
from alcor.wire.codec import RELAY_METHOD
from alcor.wire.frames import MAX_CHUNK_BYTES, decode_chunk, encode_chunk


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    region = Region(tmp_path)
    await region.start()
    try:
        yield region
    finally:
        await region.close()


async def ask(
    region: Region, peer: Host, target: str, *, role: str = CONTROLLER, say: bytes = b"", raw: bytes = b""
) -> bytes:
    """Has the peer carry something to the target; the first bytes that come back. Raises AioRpcError."""
    directory = region.directory / f"caller-{role}"
    pki.issue(region.directory / "ca", directory, "caller", role=role)
    options = [("grpc.ssl_target_name_override", peer.name)]
    credentials = load_credentials(directory, role).for_client()
    async with grpc.aio.secure_channel(f"{peer.address}:{peer.port}", credentials, options=options) as channel:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(RELAY_METHOD)
        relay = method(metadata=((TARGET_HEADER, target),))
        if say or raw:
            await relay.write(raw or encode_chunk(say))
        answer = await relay.read()
        if not isinstance(answer, bytes):
            raise AssertionError(f"the relay ended: {await relay.code()}: {await relay.details()}")
        relay.cancel()
        return decode_chunk(answer)


async def counted(host: Host) -> int:
    """Streams and relays that it refused."""
    assert host.agent is not None
    return (await host.agent.status()).refused["streams"]


@pytest.mark.parametrize("target", ["", "localhost:50001", "example.org:50001", "127.0.0.1", "127.0.0.1:x", "[::1]:-1"])
async def test_only_addresses_of_agents(region: Region, target: str) -> None:
    """Names are not looked up for others; a port must be one."""
    peer = await region.add_host("host-a")
    with pytest.raises(grpc.aio.AioRpcError, match="is not the address and port of an agent") as refusal:
        await ask(region, peer, target)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await counted(peer) == 1


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("10.0.0.7:50001", True),
        ("[2001:db8::7]:50001", True),
        ("10.0.0.7:22", False),
        ("127.0.0.1:50001", False),
        ("[::1]:50001", False),
        ("[::ffff:127.0.0.1]:50001", False),
    ],
)
def test_neither_loopback_nor_other_services(target: str, allowed: bool) -> None:
    """As a host is configured by default."""
    assert bool(Relay(RelayLimits())._target(target)[0]) is allowed


async def test_only_controllers(region: Region) -> None:
    """Another host's agent may not use it."""
    peer = await region.add_host("host-a")
    with pytest.raises(grpc.aio.AioRpcError, match="does not give it the role 'controller'") as refusal:
        await ask(region, peer, f"{peer.address}:{peer.port}", role=AGENT)
    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert await counted(peer) == 1


async def test_a_target_that_is_not_there_is_said(region: Region) -> None:
    """With the address that could not be reached, from where."""
    peer = await region.add_host("host-a")
    with pytest.raises(grpc.aio.AioRpcError, match=r"127\.0\.1\.99:9 cannot be reached from here") as refusal:
        await ask(region, peer, "127.0.1.99:9")
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (encode_chunk(bytes(MAX_CHUNK_BYTES + 1)), f"chunk.data: {MAX_CHUNK_BYTES + 1} bytes, at most"),
        (b"\xff\xff", "chunk: not a protobuf message"),
        (encode_chunk(b"hello")[:-1], "chunk: not a protobuf message"),
    ],
    ids=["too large", "noise", "truncated"],
)
async def test_what_is_no_chunk_ends_the_relay(region: Region, said: bytes, reason: str) -> None:
    """It is said why, and counted; nothing of it reaches the target."""
    peer, target = await region.add_host("host-a"), await region.add_host("host-b")
    with pytest.raises(grpc.aio.AioRpcError, match=reason) as refusal:
        await ask(region, peer, f"{target.address}:{target.port}", raw=said)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await counted(peer) == 1
    assert await counted(target) == 0


async def test_so_many_at_a_time(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than it may carry is refused, and said why; the peer carries none then."""
    peer, target = await region.add_host("host-a"), await region.add_host("host-b")
    monkeypatch.setattr(RelayLimits, "relays", 0, raising=False)
    with pytest.raises(grpc.aio.AioRpcError, match="relays for 0 others already") as refusal:
        await ask(region, peer, f"{target.address}:{target.port}")
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await counted(peer) == 1


async def test_what_is_carried_is_for_the_target_to_judge(region: Region) -> None:
    """A peer that speaks for itself instead of carrying gets TLS's alert: it has no controller's key."""
    peer, target = await region.add_host("host-a"), await region.add_host("host-b")
    forged = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    try:
        answer = await ask(region, peer, f"{target.address}:{target.port}", say=forged)
    except AssertionError as ended:
        assert "the relay ended" in str(ended)
    else:
        assert answer[:1] == b"\x15", "a TLS alert (RFC 8446, section 5.1)"
    assert not target.tables.ports
