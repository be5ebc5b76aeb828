"""Sealing the news of VPCs: AES-256-GCM, the subject authenticated. Called by news (seals) and the agent (opens).

The key is the VPC's, for one controller's life; the nonce comes first and never repeats under a key.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from alcor.wire.frames import NONCE_BYTES

TAG_BYTES = 16
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES


class SealBroken(Exception):
    """Not sealed with that key for that subject, or changed since."""


def derive_key(secret: bytes, label: bytes) -> bytes:
    """A key of 32 bytes, of that secret, for that purpose."""
    return hmac.digest(secret, label, hashlib.sha256)


def seal(key: bytes, subject: str, number: int, data: bytes) -> bytes:
    """`number` must never have been used with that key."""
    nonce = number.to_bytes(NONCE_BYTES, "big")
    return nonce + AESGCM(key).encrypt(nonce, data, subject.encode())


def unseal(key: bytes, subject: str, sealed: bytes) -> bytes:
    """What was sealed. Raises SealBroken."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], subject.encode())
    except (InvalidTag, ValueError):
        raise SealBroken(f"news on {subject} is not sealed with the key that was given for it") from None
