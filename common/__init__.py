"""What both sides of the wire share: values, their life cycle, their encoding, errors and settings."""
