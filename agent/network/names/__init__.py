"""Names of jobs on one node: the addresses they have there, and a DNS server that tells them."""
