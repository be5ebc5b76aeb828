"""The metadata proxy: HTTP of a port to the region's metadata service, with who asks in headers that it cannot forge.

Called by serving, for each connection to port 80 of the service address. The headers are those that Nova's metadata API
reads (neutron-metadata-agent): X-Instance-ID (the port's device_id), X-Tenant-ID, X-Forwarded-For and the instance id's
signature by the shared secret. h11 enters Alcor here and nowhere else.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import h11
import msgspec

from alcor.hostsvc.base import Client
from alcor.model.addresses import Ip, format_ip

_log = logging.getLogger(__name__)

PORT = 80
IDLE_S = 30.0
"""A connection on which nothing is asked is closed; so is one whose upstream says nothing for as long."""
MAX_BODY_BYTES = 1 << 20
MAX_CONNECTIONS = 512
CHUNK = 65536
_FORGEABLE: Final = (b"x-instance-id", b"x-tenant-id", b"x-forwarded-for", b"x-instance-id-signature")
_HOP_BY_HOP: Final = (
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer"),
    *(b"transfer-encoding", b"upgrade", b"content-length", b"host", b"expect"),
)


class MetadataConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the region's metadata service is. `host` empty: there is none."""

    host: str = ""
    port: int = 8775
    secret: bytes = b""
    """What signs instance ids: Nova's metadata_proxy_shared_secret."""


class MetadataProxy:
    """See the module."""

    def __init__(self, config: MetadataConfig) -> None:
        self._config = config
        self._open = 0

    async def serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        caller: Callable[[], tuple[Client, Ip] | None],
    ) -> None:
        """One connection of a port, until it is over. `caller`: who it is, at every request anew."""
        self._open += 1
        try:
            if self._open > MAX_CONNECTIONS:
                return
            connection = h11.Connection(h11.SERVER)
            while await self._one(connection, reader, writer, caller):
                connection.start_next_cycle()
        except (h11.RemoteProtocolError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            _log.debug("a metadata connection ends: %s", error)
        finally:
            self._open -= 1
            writer.close()

    async def _one(
        self,
        connection: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        caller: Callable[[], tuple[Client, Ip] | None],
    ) -> bool:
        """One request; True when another may follow."""
        request = await _next(connection, reader)
        if not isinstance(request, h11.Request):
            return False
        body = bytearray()
        while not isinstance(event := await _next(connection, reader), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                return False
            body += event.data
            if len(body) > MAX_BODY_BYTES:
                await _say(connection, writer, 413, b"The request body is too large.\n")
                return False
        who = caller()
        if not self._config.host or who is None or not who[0].device_id:
            reason = b"No metadata service is set up.\n" if not self._config.host else b"The instance is not known.\n"
            await _say(connection, writer, 404, reason)
        else:
            await self._pass_on(connection, writer, request, bytes(body), *who)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _pass_on(
        self,
        connection: h11.Connection,
        writer: asyncio.StreamWriter,
        request: h11.Request,
        body: bytes,
        client: Client,
        ip: Ip,
    ) -> None:
        """Asks upstream and hands its answer down as it comes."""
        config = self._config
        upstream = h11.Connection(h11.CLIENT)
        begun = False
        to: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(IDLE_S):
                source, to = await asyncio.open_connection(config.host, config.port)
            headers = [(name, value) for name, value in request.headers if name not in (*_FORGEABLE, *_HOP_BY_HOP)]
            headers += [*_identity(config, client, ip), (b"Host", config.host.encode()), (b"Connection", b"close")]
            headers.append((b"Content-Length", str(len(body)).encode()))
            asked = h11.Request(method=request.method, target=request.target, headers=headers)
            to.write((upstream.send(asked) or b"") + (upstream.send(h11.Data(data=body)) or b""))
            to.write(upstream.send(h11.EndOfMessage()) or b"")
            answer = await _next(upstream, source)
            while isinstance(answer, h11.InformationalResponse):
                answer = await _next(upstream, source)
            if not isinstance(answer, h11.Response):
                raise h11.RemoteProtocolError("no response came")
            kept = [(name, value) for name, value in answer.headers if name not in _HOP_BY_HOP]
            length = [(name, value) for name, value in answer.headers if name == b"content-length"]
            writer.write(connection.send(h11.Response(status_code=answer.status_code, headers=kept + length)) or b"")
            begun = True
            while not isinstance(part := await _next(upstream, source), h11.EndOfMessage):
                if not isinstance(part, h11.Data):
                    raise h11.RemoteProtocolError("the response was cut short")
                writer.write(connection.send(h11.Data(data=part.data)) or b"")
                async with asyncio.timeout(IDLE_S):
                    await writer.drain()
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            await writer.drain()
        except (h11.RemoteProtocolError, OSError, TimeoutError) as error:
            _log.warning("the metadata service at %s:%d failed: %s", config.host, config.port, error)
            if begun:
                raise
            await _say(connection, writer, 503, b"The metadata service does not answer.\n")
        finally:
            if to is not None:
                to.close()


def _identity(config: MetadataConfig, client: Client, ip: Ip) -> list[tuple[bytes, bytes]]:
    instance = client.device_id.encode()
    signature = hmac.new(config.secret, instance, hashlib.sha256).hexdigest()
    return [
        (b"X-Forwarded-For", format_ip(ip).encode()),
        (b"X-Instance-ID", instance),
        (b"X-Tenant-ID", client.project_id.encode()),
        (b"X-Instance-ID-Signature", signature.encode()),
    ]


async def _next(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    """The next event of a connection. Raises TimeoutError when nothing comes, RemoteProtocolError for garbage."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        async with asyncio.timeout(IDLE_S):
            connection.receive_data(await reader.read(CHUNK))
    return event


async def _say(connection: h11.Connection, writer: asyncio.StreamWriter, status: int, text: bytes) -> None:
    """An answer of our own."""
    headers = [(b"Content-Type", b"text/plain"), (b"Content-Length", str(len(text)).encode())]
    with suppress(h11.LocalProtocolError):
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=text), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        await writer.drain()
