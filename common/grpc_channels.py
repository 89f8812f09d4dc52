"""What all sessions' connections have in common, and whether a gRPC channel has one. Knows nothing of what is said over
it."""

from __future__ import annotations

import grpc
import grpc.aio

SESSION_OPTIONS = (
    # Otherwise a ping that measures the link follows each message that comes after a pause. Of a heartbeat with its
    # acknowledgement that was a quarter of what it cost, on both sides.
    ("grpc.http2.bdp_probe", 0),
    # What those pings would find out instead: so much may be under way, 5 MB/s where a round trip takes 50 ms.
    ("grpc.http2.lookahead_bytes", 256 * 1024),
)
"""Of both ends of a session."""


async def settled(channel: grpc.aio.Channel) -> bool:
    """Whether the channel is connected, once it is or has failed to.

    `channel_ready` would wait on where nobody listens: for the whole time-out, at the address of a leader just stopped.
    """
    while True:
        state = channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.READY:
            return True
        if state in {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN}:
            return False
        try:
            await channel.wait_for_state_change(state)
        except grpc.aio.UsageError:  # another call gave this channel up meanwhile
            return False
