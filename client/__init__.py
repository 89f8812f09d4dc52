"""For programs: a typed asynchronous client of the controllers, and Compose files read into job specs."""
