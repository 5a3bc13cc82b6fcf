#!/bin/sh
# Does with arguments and environment what the entrypoints of the images do that this one stands for.
case "$1" in
agent) exec consul "$@" ;;
"") ;;
*) exec "$@" ;;
esac
# Kafka: KAFKA_LOG_DIRS is log.dirs, and so on.
data=$(mktemp -d)
{
    echo "log.dirs=$data/logs"
    env | sed -n '/^KAFKA_HEAP_OPTS=/d; s/^KAFKA_//p' | while IFS== read -r name value; do
        echo "$(echo "$name" | tr 'A-Z_' 'a-z.')=$value"
    done
} > "$data/server.properties"
run="java $KAFKA_HEAP_OPTS -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp /opt/kafka/*"
set -f
$run kafka.tools.StorageTool format -t 4L6g3nShT-eMCtK--X86sw -c "$data/server.properties" || exit 1
exec $run kafka.Kafka "$data/server.properties"
