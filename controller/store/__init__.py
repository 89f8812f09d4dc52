"""Where the cluster's state outlives the controller: one interface, three backends with one contract suite."""
