"""The relay: a small process that accepts on published ports and passes bytes to healthy tasks. Knows no controller."""
