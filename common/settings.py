"""Bounds and timers that both sides must agree on, each with its unit and its reason. Sides add their own."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Everything has a limit; a request over one is refused by name."""

    spec_bytes: int = 256 * 1024
    """One job's spec as JSON: larger ones are data in the wrong place."""
    message_bytes: int = 4 * 1024 * 1024
    """gRPC's default for one message of the engineer's API."""
    items_per_piece: int = 1_000
    """Of a list that is answered in pieces: half a megabyte of tasks as they usually are."""
    session_message_bytes: int = 16 * 1024 * 1024
    """A complete assignment set of a full node."""
    replicas: int = 100_000
    """Per job: the scale the control plane is measured at."""
    gang_tasks: int = 100
    """Of a gang: they are placed in one commit of the store, which takes 120 operations."""
    jobs_per_request: int = 1_000
    runs_kept: int = 100
    """Of a schedule: each is a job that every list shows."""
    attempts: int = 100
    """Tasks tried for one slot of a job whose tasks end: what failed so often will fail again."""
    attempts_kept: int = 5
    """Ended attempts kept with a slot."""
    attempt_record_bytes: int = 8 * 1024
    """One crash record: its log tail is cut from the front to fit."""
    attempt_log_lines: int = 50
    health_output_bytes: int = 2 * 1024
    ports_per_job: int = 128
    image_ports: int = 16
    """That an image declares and a job takes from it, the lowest first: each costs its node a port and a forwarder."""
    labels_per_object: int = 256
    mounts_per_job: int = 64
    assets_per_job: int = 64
    """Configs and secrets together."""
    config_bytes: int = 1000 * 1024
    """As Docker has it; in base 64 it fits into one commit of the store."""
    secret_bytes: int = 500 * 1024
    """As Docker has it."""
    asset_bytes_per_namespace: int = 32 * 1024 * 1024
    """Of all versions that are kept: a leader has them in memory."""
    assets_per_namespace: int = 1_000
    volumes_per_node: int = 1_000
    """Kept in the node's record."""
    strays_per_node: int = 1_000
    """Kept in the node's record, which one write of the store takes; a node runs a few hundred tasks."""
    inventory_tasks: int = 10_000
    """That one node can have in mind."""
    node_description_bytes: int = 64 * 1024
    """As JSON: labels, attributes and devices of the largest machine, many times over."""
    runtimes_per_node: int = 16
    largest_integer: int = 2**53
    devices_per_kind: int = 128
    """Units of one kind on one node, so the most that a task can ask for: the largest machines have 16 GPUs."""
    device_kinds: int = 64
    """Per node: each is a block of columns in the scheduler's table."""
    environment_bytes: int = 128 * 1024
    """Linux refuses a longer single argument or environment string."""


LIMITS = Limits()
