"""What comes to the reconciler from controllers, and why some of it must not be taken. Pure. Called by reconcile."""

from __future__ import annotations

from typing import NamedTuple

from alcor.model.ids import Id
from alcor.wire.codec import BundleHead


class Received(NamedTuple):
    """A bundle as it came, from which stream, and for whom that speaks."""

    data: bytes
    received_at: float
    """By the reconciler's clock."""
    stream: int
    partition: int
    epoch: int
    sequence: int = 0
    """What is due on the stream; 0: that is not counted."""


class News(NamedTuple):
    """A bundle from a VPC's feed, as it was unsealed."""

    partition: int
    vpc: Id
    data: bytes


def refused(head: BundleHead, bundle: Received, host: str, newest: int) -> str:
    """Why a bundle must not be taken by `host`, which has seen epoch `newest` of its partition; empty when it may."""
    if head.partition != bundle.partition:
        return f"bundle.partition: {head.partition}, its stream is partition {bundle.partition}'s"
    if head.epoch > bundle.epoch:
        return f"bundle.epoch: {head.epoch}, its stream's is {bundle.epoch}"
    if bundle.sequence and head.sequence != bundle.sequence:
        return f"bundle.sequence: {head.sequence}, {bundle.sequence} is due: bundles come once and in order"
    if head.host != host:
        return f"bundle.host: it is for host '{head.host}', this is '{host}'"
    if head.epoch < newest:
        return f"bundle.epoch: {older(head.epoch, newest)}"
    return ""


def older(epoch: int, newest: int) -> str:
    """Why a controller of that epoch is not listened to any more."""
    return f"epoch {epoch} is older than {newest}: another controller has taken over"
