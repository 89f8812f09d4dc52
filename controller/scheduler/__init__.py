"""Where tasks go. Values in, values out: placements, or verdicts with numbers; never a clock, a log or an await.

- node_table: what the scheduler knows of every node, in columns; attributes: what nodes are told apart by
- values: requests, placements, plans; schedule: requests to a plan
- filters: which nodes could take a task; scoring: which of them should
- explain: why not there, why here; verdicts: the words for it; fixes: what would make it fit
"""
