"""The decisions: pure functions over values. They take (state, now, rng) and return typed decisions with reasons."""
