"""The dispatcher's own bounds, each with its unit and its reason. The cluster's timers are in `controller.settings`."""

from __future__ import annotations

import msgspec


class DispatcherSettings(msgspec.Struct, frozen=True, kw_only=True):
    silence_periods: float = 10.0
    """A session without a message for so many periods is closed: a half-open connection only costs memory."""
    register_timeout_s: float = 10.0
    """From the opened stream to its Register: a stream that says nothing must not be kept."""
    send_timeout_s: float = 10.0
    """For the transport to take one message: a peer that reads nothing is gone or stuck."""
    farewell_timeout_s: float = 1.0
    """For the last word to a session that is closed."""
    outbox_messages: int = 1_024
    """Waiting for one node. A node that is so far behind is told everything anew in its next session."""
    assignments_per_message: int = 50
    """So that even 50 specs of the largest allowed size fit into a session's message."""
    assigned_nodes_per_s: float = 2_000.0
    """Told of their tasks: while thousands of tasks are placed, those of one node go out together. On a node's stream
    its heartbeats' acknowledgements stand behind them, message by message."""
    reports_per_transaction: int = 500
    """Looked at without a break: 10 ms. What a crowd of nodes says together would hold the loop up for longer than a
    heartbeat may be late."""
    unacknowledged_batches: int = 4
    """Of statuses that are in the store without the node's knowing: it is told with the next heartbeat, but before it
    has so many in flight that it waits (8)."""
    status_linger_s: float = 0.005
    """That statuses wait for others to share a commit with."""
    publish_interval_s: float = 0.02
    """Between two revisions of the endpoints, for few nodes: what changes within it goes out together."""
    publishes_per_s: float = 10_000.0
    """Messages of endpoints to all nodes together: with more nodes revisions come at longer intervals."""
    redial_s: float = 5.0
    """What a refused agent is told to wait: refusing it again sooner would tell it nothing new."""
    wait_s: float = 0.5
    """While nobody leads an agent is kept at the door for so long, then told to come back in as long: after a clean
    stop the next leader is there in a tenth of it, after a crash in seconds. Shorter than an agent's patience."""
    log_requests_per_node: int = 256
    """Open at once; each holds a file or a stream of the engine open on the node."""
    log_lines_waiting: int = 2_000
    """Of one request, for a reader slower than the log; what comes beyond is dropped and counted."""
    sessions_per_node: int = 4
    """Under way at once of one certificate: the one that serves, and a few that dial again before it is found dead."""
    sessions_per_s: float = 5.0
    """Of one certificate, in the long run: an agent that finds nobody who leads dials twice a second at most."""
    sessions_burst: int = 20
    """So many at the same moment: an agent that is restarted again and again, or follows leaders that change."""
    callers_known: int = 20_000
    """Whose rate is kept in mind: more than nodes that one leader is measured with."""
    execs_per_node: int = 16
    """Programs of engineers at a time, as many as an agent takes."""
    exec_window_bytes: int = 128 * 1024
    """Of output that may be under way from one program: what a terminal shows in a blink, over a slow link too."""
    exec_begin_timeout_s: float = 30.0
    """For a program to be begun: an engine that is busy takes seconds."""

    apply_limit_s: float = 10.0
    """A node that has not carried out a withdrawal by then is not waited for any longer: its proxy is in trouble, and a
    long grace is meant for connections."""

    def endpoints_interval_s(self, sessions: int) -> float:
        """Seconds between two revisions of the endpoints while `sessions` nodes are connected."""
        return max(self.publish_interval_s, sessions / self.publishes_per_s)


SETTINGS = DispatcherSettings()
