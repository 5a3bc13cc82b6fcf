"""Sessions of access pods as a metric that a HorizontalPodAutoscaler can ask for (custom.metrics.k8s.io).

What an adapter of Prometheus does in a real cluster: here each question reads the pods themselves.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import json
import re
import ssl
import threading
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.kubernetes.api import Api, Object

GROUP: Final = "custom.metrics.k8s.io"
VERSION: Final = "v1beta2"
PORT: Final = 6444
METRIC: Final = "holdfast_access_sessions"
_LINE: Final = re.compile(rf"^{METRIC}(?:\{{.*\}})? ([0-9.e+]+)$", re.MULTILINE)
_PATH: Final = re.compile(rf"/apis/{GROUP}/{VERSION}/namespaces/([^/]+)/pods/\*/{METRIC}")


def serve(api: Api, certificate: Path) -> None:
    """Answer from now on, and tell the API server where."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            if found := _PATH.fullmatch(urllib.parse.unquote(url.path)):
                self._answer(_values(api, found[1], urllib.parse.parse_qs(url.query)))
            elif url.path.rstrip("/") == f"/apis/{GROUP}/{VERSION}":
                self._answer(_RESOURCES)
            else:
                self._answer({"message": f"nothing at {url.path}"}, 404)

        def _answer(self, body: Object, status: int = 200) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_request(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    register(api, GROUP, VERSION, PORT)


def register(api: Api, group: str, version: str, port: int) -> None:
    """Have the API server pass an API group on to a program of this machine."""
    name = group.replace(".", "-")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    api.post("/api/v1/namespaces/kube-system/services", service)
    entry = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{version}.{group}"},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": name, "namespace": "kube-system", "port": port},
        },
    }
    api.post("/apis/apiregistration.k8s.io/v1/apiservices", entry)


_RESOURCES: Final[Object] = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": f"{GROUP}/{VERSION}",
    "resources": [
        {
            "name": f"pods/{METRIC}",
            "singularName": "",
            "namespaced": True,
            "kind": "MetricValueList",
            "verbs": ["get"],
        }
    ],
}


def _values(api: Api, namespace: str, query: dict[str, list[str]]) -> Object:
    selector = urllib.parse.urlencode({"labelSelector": query.get("labelSelector", [""])[0]})
    pods = api.get(f"/api/v1/namespaces/{namespace}/pods?{selector}")["items"]
    values = {pod["metadata"]["name"]: _sessions(pod["status"].get("podIP", "")) for pod in pods}
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "kind": "MetricValueList",
        "apiVersion": f"{GROUP}/{VERSION}",
        "metadata": {},
        "items": [
            {
                "describedObject": {
                    "kind": "Pod",
                    "apiVersion": "/v1",
                    "namespace": namespace,
                    "name": name,
                },
                "metric": {"name": METRIC},
                "timestamp": now,
                "value": str(value),
            }
            for name, value in values.items()
            if value is not None
        ],
    }


def _sessions(address: str) -> int | None:
    if not address:
        return None
    with contextlib.suppress(OSError):
        with urllib.request.urlopen(f"http://{address}:9100/metrics", timeout=2.0) as answer:
            text = answer.read().decode()
        return int(sum(float(value) for value in _LINE.findall(text)))
    return None
