"""What runs a task's container: one interface; Docker, plain processes and a fake behind it."""
