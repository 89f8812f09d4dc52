#!/bin/sh
# The page: who answers, and what the api says. (wget's own -T crashes in some builds of busybox.)
printf 'Content-Type: text/plain\r\n\r\n'
echo "web replica $PODIUM_SLOT on $PODIUM_NODE"
timeout 2 wget -q -O - "$API" || echo "the api does not answer"
