"""The node's data plane: carries published ports' traffic in a process of its own, fed by the agent."""
