"""One node: keeps the tasks assigned to it running, whether or not a controller can be reached."""
