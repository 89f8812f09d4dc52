"""The node's guard: a process of its own that ends exclusive containers when nobody says any more that they may run."""
