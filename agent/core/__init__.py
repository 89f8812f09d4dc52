"""The agent's decisions: pure functions over values. No clock, no chance but what is handed in, no I/O."""
