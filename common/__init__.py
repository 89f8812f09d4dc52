"""What both sides of the wire share: values, their life cycle, their encoding, errors and settings."""

import os

# gRPC's handlers around fork() are for programs that go on using it in the child. Ours start other programs at once,
# and then the handlers race with gRPC's own threads: one agent in a hundred died of SIGSEGV as it started its relay.
# gRPC reads this when it is imported, so it must stand where everything that imports gRPC has been first.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
