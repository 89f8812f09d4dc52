"""HAProxy as the node's data plane: configured, steered over its sockets, and left running when the agent stops."""
