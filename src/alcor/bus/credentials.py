"""Who may use the bus, and for what: NATS's operator mode, as files. Called by roles, lab and tests.

An operator key signs an account, whose two signing keys issue users (docs.nats.io, "JWTs and security"): a *host* may
speak on its own `up` subject and listen on its own `down` subject and to VPCs' news (which is sealed: it reads what it
has keys of), a *controller* the reverse. What a role may do is in the account, as a template, not in the user: so the
server knows no hosts, and a region of half a million has the same configuration as a lab. nkeys enters here only.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import nkeys

from alcor.bus.base import word
from alcor.kit.files import replace_file

HOST, CONTROLLER = "host", "controller"
CREDENTIALS, TRUST = "bus.creds", "bus-trust.json"
"""Files beside a machine's certificates: its own, and, at controllers, what an embedded server is configured with."""
_OPERATOR, _ACCOUNT = "operator", "account"
_PREFIXES = {
    _OPERATOR: nkeys.PREFIX_BYTE_OPERATOR,
    _ACCOUNT: nkeys.PREFIX_BYTE_ACCOUNT,
    HOST: nkeys.PREFIX_BYTE_ACCOUNT,
    CONTROLLER: nkeys.PREFIX_BYTE_ACCOUNT,
}
_SPEAK = {HOST: ["alcor.*.up.{{name()}}"], CONTROLLER: ["alcor.*.down.*", "alcor.*.vpc.*"]}
_LISTEN = {HOST: ["alcor.*.down.{{name()}}", "alcor.*.vpc.*"], CONTROLLER: ["alcor.*.up.*"]}
_UNLIMITED = -1

_CREDS = """-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


class Trust(msgspec.Struct, frozen=True):
    """What a server of the bus must know: public, and the same for every server of a cluster."""

    operator_jwt: str
    account: str
    """The account's public key."""
    account_jwt: str


def make_authority(directory: Path) -> None:
    """Makes the keys (seeds, mode 0600) there; keeps the ones that exist."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, prefix in _PREFIXES.items():
        path = directory / f"{name}.nk"
        if not path.exists():
            replace_file(path, bytes(nkeys.encode_seed(os.urandom(32), prefix)), 0o600)


def trust(directory: Path) -> Trust:
    """What servers are configured with. Same keys, same answer, but for the time in it. Raises OSError."""
    operator, account = _key(directory, _OPERATOR), _key(directory, _ACCOUNT)
    roles = [
        {
            "kind": "user_scope",
            "key": _public(_key(directory, role)),
            "role": role,
            "template": {
                "pub": {"allow": _SPEAK[role]},
                "sub": {"allow": _LISTEN[role]},
                "subs": _UNLIMITED,
                "data": _UNLIMITED,
                "payload": _UNLIMITED,
            },
        }
        for role in (HOST, CONTROLLER)
    ]
    limits = dict.fromkeys(("subs", "conn", "leaf", "imports", "exports", "data", "payload"), _UNLIMITED)
    claims = {"type": _ACCOUNT, "version": 2, "limits": {**limits, "wildcards": True}, "signing_keys": roles}
    name = _public(account)
    return Trust(
        _jwt(operator, _public(operator), "alcor", {"type": _OPERATOR, "version": 2}),
        name,
        _jwt(operator, name, "alcor", claims),
    )


def issue(directory: Path, path: Path, name: str, *, role: str) -> None:
    """Writes a .creds file (mode 0600) for `name` in `role` (HOST, CONTROLLER). Raises OSError."""
    signer = _key(directory, role)
    seed = bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    user = nkeys.from_seed(bytearray(seed))
    account = _public(_key(directory, _ACCOUNT))
    jwt = _jwt(signer, _public(user), word(name), {"type": "user", "version": 2, "issuer_account": account})
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, _CREDS.format(jwt=jwt, seed=seed.decode()).encode(), 0o600)


def enrol(authority: Path, directory: Path, name: str, *, role: str) -> None:
    """Writes into `directory` what a machine needs: CREDENTIALS, and TRUST for a controller. Makes the keys in
    `authority` if there are none. Raises OSError."""
    make_authority(authority)
    issue(authority, directory / CREDENTIALS, name, role=role)
    if role == CONTROLLER:
        (directory / TRUST).write_bytes(msgspec.json.encode(trust(authority)))


def read_trust(directory: Path) -> Trust | None:
    """What `enrol` wrote there for a controller; None: nothing. Raises OSError, msgspec.DecodeError."""
    path = directory / TRUST
    return msgspec.json.decode(path.read_bytes(), type=Trust) if path.exists() else None


def find_credentials(chosen: Path | None, directory: Path) -> Path | None:
    """The .creds file to show: the chosen one, else CREDENTIALS in `directory` if there is one."""
    beside = directory / CREDENTIALS
    return chosen or (beside if beside.exists() else None)


def _key(directory: Path, name: str) -> Any:
    return nkeys.from_seed(bytearray((directory / f"{name}.nk").read_bytes()))


def _public(key: Any) -> str:
    return bytes(key.public_key).decode()


def _jwt(signer: Any, subject: str, name: str, claims: dict[str, object]) -> str:
    body = {"iat": int(time.time()), "iss": _public(signer), "name": name, "sub": subject, "nats": claims}
    digest = hashlib.new("sha512_256", msgspec.json.encode(body)).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    text = f"{_base64({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_base64(body)}"
    return f"{text}.{_base64_bytes(signer.sign(text.encode()))}"


def _base64(value: object) -> str:
    return _base64_bytes(msgspec.json.encode(value))


def _base64_bytes(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
