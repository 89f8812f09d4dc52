"""The controller: knows what should be, decides what to do about it, and is the only writer of the store."""
