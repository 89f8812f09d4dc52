"""Keys, seals, certificates and tokens of the cluster, over values: no store, no network."""
