#!/bin/sh
printf 'Content-Type: application/json\r\n\r\n'
printf '{"items": ["apple", "pear"], "replica": %s, "node": "%s"}\n' "$PODIUM_SLOT" "$PODIUM_NODE"
