"""For people: the `podium` command. What is slow to import (gRPC, rich, YAML, the serving parts) is imported in use."""
