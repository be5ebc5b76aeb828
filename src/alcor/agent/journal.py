"""The agent's journal: the file from which a host knows what it should carry when nobody can tell it.

Called by reconcile, from its one thread. Accepted bundles are appended as they came; when the file has grown enough it
is written anew from the merged state. Record: length (u32), CRC-32 (u32) of what follows, type (u8), payload; integers
big-endian; after the magic. Types: 1 a Bundle message as received; 2 a piece of a scope: partition (u32), ScopeUpdate
message; 3 the end of a scope: partition (u32), epoch (u64), revision (u64), floor (u64), how whole (u8), scope.

What is promised: after the process is killed at any moment, everything acknowledged is there (the page cache keeps it).
After a power failure the tail may be missing, and so is the kernel's state: appends are not synced to disk, a rewritten
file is before it replaces the old one. What is missing or damaged is never guessed: its records are skipped, the digest
differs, and the controller's next snapshot repairs it. The damaged file is kept beside the new one, once.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alcor.agent.state import Desired, ScopeKey, Touched
from alcor.goalstate.objects import AS_OF_NOTHING, HOST_SCOPE, Goal, ScopeUpdate, Tombstone
from alcor.model.ids import Id
from alcor.wire.codec import MAX_MESSAGE_BYTES, decode_bundle, decode_scopes, decode_update, encode_update
from alcor.wire.fields import WireError

MAGIC = b"ALCORJ01"
REWRITE_AT_BYTES = 8 << 20
"""Below this the file is not rewritten for its size."""
REWRITE_GROWTH = 3
"""Rewritten when this many times as large as after the last rewrite."""
REWRITE_AT_BUNDLES = 2000
REWRITE_SHARE = 1000
"""Rewritten when so many bundles were appended, and one more for every REWRITE_SHARE bytes of what was rewritten last:
a bundle costs 40 to 80 us to replay, however small, and a restarted agent waits for that."""
PIECE_OBJECTS = 1000
"""Objects in one piece of a scope: what is encoded at a time, and what one damaged byte can cost."""

_HEAD = struct.Struct(">II")
_PARTITION = struct.Struct(">I")
_SCOPE = struct.Struct(">IQQQB")
_BUNDLE, _PIECE, _END = 1, 2, 3
_COMPLETE, _PARTIAL = 1, 2
"""How whole a scope is; 0: what came is all deltas."""

_log = logging.getLogger(__name__)


class JournalError(Exception):
    """The journal cannot be read or written: which file, why, and what to do."""


class _Record(NamedTuple):
    type: int
    payload: bytes


class Journal:
    """See the module. `load` first; then `append` and, when `grown`, `rewrite`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._size = 0
        self._base = 0
        """Size after the last rewrite."""
        self._bundles = 0
        """Appended since."""

    def load(self) -> Desired:
        """What the journal says; an absent file says nothing. Opens the file for appending. Raises JournalError."""
        desired = Desired()
        damage = 0
        try:
            if self.path.exists() and self.path.stat().st_size:
                damage = self._replay(desired)
            if damage:
                _log.warning(
                    "%s: %d damaged records skipped; the controller will send what is missing", self.path, damage
                )
                self.path.replace(self.path.with_suffix(".damaged"))
                for state in desired.scopes.values():  # what came before what is held, nobody can say any more
                    state.revision = AS_OF_NOTHING
                self.rewrite(desired)
            elif self._size == 0:
                self.rewrite(desired)
            else:
                self._open()
        except OSError as error:
            raise self._error("read", error) from None
        return desired

    def append(self, bundle: bytes) -> None:
        """Adds an accepted bundle. Raises JournalError; then nothing was added."""
        record = _encode(_BUNDLE, bundle)
        try:
            written = os.write(self._descriptor, record)
            if written != len(record):
                raise OSError(28, "no space left on device")
        except OSError as error:
            os.ftruncate(self._descriptor, self._size)
            raise self._error("append to", error) from None
        self._size += len(record)
        self._bundles += 1

    @property
    def grown(self) -> bool:
        """The file is worth rewriting."""
        if self._size > max(REWRITE_AT_BYTES, REWRITE_GROWTH * self._base):
            return True
        return self._bundles > REWRITE_AT_BUNDLES + self._base // REWRITE_SHARE

    def rewrite(self, desired: Desired) -> None:
        """Replaces the file by what `desired` holds now; a crash leaves the old or the new one. Raises JournalError."""
        fresh = self.path.with_suffix(".new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(MAGIC)
                for record in _state_records(desired):
                    file.write(record)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
            _sync_directory(self.path.parent)
            self._open()
        except OSError as error:
            raise self._error("rewrite", error) from None
        finally:
            self._base, self._bundles = self._size, 0  # after a failure too: the next attempt waits for more growth

    def close(self) -> None:
        """Lets go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        self.close()
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = os.fstat(self._descriptor).st_size

    def _replay(self, desired: Desired) -> int:
        """Merges the records into `desired`; returns how many were damaged. A torn last record is cut off."""
        damage = 0
        with self.path.open("rb+") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[: len(MAGIC)] != MAGIC:
                return 1
            good, end = len(MAGIC), len(content)
            base = good
            for offset, record in _records(content):
                good = offset
                if record is None or not _apply(desired, record):
                    damage += 1
                elif record.type == _BUNDLE:
                    self._bundles += 1
                if not self._bundles:
                    base = good
        if good != end:
            _log.warning("%s: the last record was cut off by a crash and is dropped", self.path)
            os.truncate(self.path, good)
        self._size, self._base = good, base
        return damage

    def _error(self, verb: str, error: OSError) -> JournalError:
        return JournalError(
            f"cannot {verb} {self.path}: {error.strerror}. Free space or mend permissions; until then goal state is"
            " refused"
        )


def _encode(kind: int, *payload: bytes) -> bytes:
    body = b"".join((bytes((kind,)), *payload))
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _records(content: mmap.mmap) -> Iterator[tuple[int, _Record | None]]:
    """(offset behind it, record), None for one whose checksum is wrong; ends at the end or where framing is lost."""
    offset, end = len(MAGIC), len(content)
    while offset + _HEAD.size < end:
        length, checksum = _HEAD.unpack_from(content, offset)
        start, offset = offset + _HEAD.size, offset + _HEAD.size + length
        if length == 0 or length > MAX_MESSAGE_BYTES + 1024:
            yield end, None  # not a length: nothing behind it can be found
            return
        if offset > end:
            return
        body = content[start:offset]
        yield offset, _Record(body[0], body[1:]) if zlib.crc32(body) == checksum else None


def _apply(desired: Desired, record: _Record) -> bool:
    """Merges a record; False when it is not one of ours."""
    try:
        if record.type == _BUNDLE:
            head, scopes = decode_bundle(record.payload)
            updates = decode_scopes(scopes)
            desired.take(head.partition, head.epoch, updates, synced=head.synced, touched=Touched())
        elif record.type == _PIECE:
            (partition,) = _PARTITION.unpack_from(record.payload)
            update = decode_update(record.payload[_PARTITION.size :])
            key = ScopeKey(partition, update.scope)
            desired.merge(key, desired.make_scope(key), update, Touched(), set())
        elif record.type == _END:
            partition, epoch, revision, floor, whole = _SCOPE.unpack_from(record.payload)
            key = ScopeKey(partition, Id(record.payload[_SCOPE.size :]))
            if len(key.scope) not in (0, 16):
                return False
            state = desired.make_scope(key)
            state.restore(revision=revision, floor=floor, complete=whole == _COMPLETE)
            state.partial = whole == _PARTIAL
            desired.epochs[partition] = max(epoch, desired.epochs.get(partition, 0))
        else:
            return False
    except (WireError, struct.error):
        return False
    return True


def _state_records(desired: Desired) -> Iterator[bytes]:
    """The state as records, in pieces; a scope's end behind its pieces."""
    for partition in sorted(desired.epochs):
        desired.make_scope(ScopeKey(partition, HOST_SCOPE))
    for key, state in sorted(desired.scopes.items()):
        prefix = _PARTITION.pack(key.partition)
        objects: list[Goal] = []
        for goal in state.objects():
            objects.append(goal)
            if len(objects) == PIECE_OBJECTS:
                yield _encode(_PIECE, prefix, _piece(key.scope, objects, []))
                objects = []
        tombstones = list(state.tombstones())
        yield _encode(_PIECE, prefix, _piece(key.scope, objects, tombstones))
        epoch = desired.epochs.get(key.partition, 0)
        whole = _COMPLETE if state.complete else _PARTIAL if state.partial else 0
        yield _encode(_END, _SCOPE.pack(key.partition, epoch, state.revision, state.floor, whole), key.scope)


def _piece(scope: Id, objects: list[Goal], tombstones: list[Tombstone]) -> bytes:
    return encode_update(
        ScopeUpdate(scope=scope, revision=1, snapshot=False, objects=tuple(objects), tombstones=tuple(tombstones))
    )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
