"""All dashboards. Each panel answers one question of an operator."""

from typing import Final

from deploy.grafana.access import ACCESS
from deploy.grafana.cluster import CLUSTER
from deploy.grafana.pipeline import PIPELINE
from deploy.grafana.stores import STORES

DASHBOARDS: Final = (CLUSTER, ACCESS, PIPELINE, STORES)
