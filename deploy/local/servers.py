"""The servers that Holdfast stands on, in one import."""

from deploy.local.consul import start_consul
from deploy.local.kafka import start_kafka
from deploy.local.process import Running, Unavailable, free_port
from deploy.local.redis import start_redis

__all__ = ["Running", "Unavailable", "free_port", "start_consul", "start_kafka", "start_redis"]
