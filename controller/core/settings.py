"""The numbers the decisions use, each with its unit and its reason."""

from __future__ import annotations

from common.backoff import Backoff

REPLACEMENT_BACKOFF = Backoff(first_s=1.0, limit_s=60.0)
"""Between a slot's tasks that failed for good: at once after the first, 1 s after the second, at most a minute."""

SETTLE_S = 1.0
"""A task without a health check counts as good after running this long: a program that cannot start is gone by then."""

ENDED_KEPT_PER_SLOT = 2
"""Ended tasks kept for `ps --all`; the slot keeps five attempts' crash records besides."""

ENDED_KEPT_OUTSIDE = 20
"""Ended tasks kept of slots that the job no longer has, so that scaling down does not erase what just happened."""

VERSIONS_KEPT = 5
"""Versions of a job kept for a rollback, besides those that tasks run."""

FORGOTTEN_AT_ONCE = 100
"""Records erased by one decision: it has to fit into one commit of the store, which takes 120."""

FAILED_NODES_KEPT = 3
"""Nodes a slot failed on and avoids; older ones are forgiven."""

BATCH_REJECTIONS = 3
"""Nodes that may refuse a batch task before its slot has failed."""

CLOCK_WENT_BACK_S = 3600.0
"""A schedule that is further in the future than this was moved on by a wrong clock. Less, and what is due by the clock
that was put back waits until it is not due a second time."""

RUNS_FORGOTTEN_AT_ONCE = 50
"""Runs of one schedule that are removed in one transaction."""

MOVES_AT_ONCE = 20
"""Tasks in the whole cluster that are on their way from nodes to be emptied, besides each job's own `parallelism`:
engines start 6 to 16 containers a second, and the nodes they go to have other work."""

MOVE_COUNTS_S = 10.0
"""A task counts among those for this long: one that pulls a large image or fits nowhere must not hold the others up."""

MOVE_LOOK_S = 1.0
"""A job whose tasks wait for that room asks again so often."""

WISHED_MOVES_AT_ONCE = 5
"""As `MOVES_AT_ONCE`, of tasks that move for a better balance: there is no hurry, and what runs has other work."""

WISH_WITHOUT_ROOM_S = 10.0
"""A successor that finds no room on the one node it was meant for is given up, and with it the wish to move."""

WISH_LASTS_S = 600.0
"""One that was placed has this long to run: pulling a large image takes minutes, more is a fault of that node."""

PREEMPTORS_AT_ONCE = 20
"""Tasks in the whole cluster for which room is being made: the displaced need places too, and engines start 6 to 16
containers a second."""

PREEMPTOR_FAILURES = 3
"""A slot whose tasks failed so often in a row displaces nobody until one ran well: it would only take the room to fail
again."""

DISPLACED_MOVE_S = 60.0
"""A displaced task is relieved first where it can be; when its successor is not well by then, it is stopped: the more
important one has waited long enough."""

GANG_PATIENCE_S = 30.0
"""How long a gang waits like everybody else. From then on what is free is kept for it, for every other `NOMINATION_S`:
without that a stream of small tasks starves it, and for ever would starve them."""

NOMINATION_S = 180.0
"""How long room is kept for one task. When it has not got it by then something keeps it from coming free (a container
that does not stop), and another node is looked for."""

QUOTA_LOOK_S = 5.0
"""A job that may not grow, since its namespace has all that it may have, looks again so often."""

WAKES_PER_S, WAKES_BURST = 0.5, 60
"""Of one node: a page that calls sixty sleeping jobs wakes them all at once; one that says without end that connections
wait, and lies, costs a start every two seconds."""

ROLLOUTS_KEPT = 5
"""Of each job, the last one included: they are part of its record, which every step of a rollout writes."""

SLIPS_ALLOWED = 10
"""How often what a step asked for may cease to be well while it is watched. Each time it is watched anew; that must
end."""

TAKEOVER_GRACE_S = 60.0
"""A rollout whose deadline passed while nobody led gets this long to come further: agents have to say what became of
their tasks, and what was asked for since has to start."""

PROGRESS_NOTED_S = 2.0
"""How often it is written down that more slots of a rollout are through, where nothing waits for that: a job of
thousands would be written thousands of times."""

SCALING_STEPS_KEPT = 20
"""Changes of a job's number by its autoscaling that its record keeps for the pace: more in one period is no pace."""

ROLLOUT_HOLDS_S = 120.0
"""A rollout under way keeps its job from being made smaller by its load, and all jobs from being moved for a better
balance, unless it came no further for this long."""
