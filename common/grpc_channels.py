"""Whether a gRPC channel has a connection. Knows nothing of what is said over it."""

from __future__ import annotations

import grpc
import grpc.aio


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
