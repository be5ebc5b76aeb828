"""What the socket module lacks. Called by whoever must not lose datagrams while it is busy."""

import socket

_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h


def set_receive_buffer(receiver: socket.socket, size: int) -> None:
    """Lets that many bytes wait, what the kernel keeps beside each datagram included. Without CAP_NET_ADMIN, at most
    what the machine's net.core.rmem_max allows."""
    try:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
