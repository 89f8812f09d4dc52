"""A whole cluster of the production code on virtual time, cut at Dispatcher, Store and Runtime, for random faults.

`python -m tests.sim --seed N` replays a run.
"""
