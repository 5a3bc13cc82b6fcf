"""What schemas cannot say: that the numbers fit each other, and what a pod may do."""

from __future__ import annotations

import re

import pytest

from holdfast.errors import Stop
from holdfast.settings import SECRETS, Settings, all_settings
from holdfast.settings_load import load
from tests.k8s.manifests import OVERLAYS, ROLES, Manifest, labels, manifests, of_kind, pod, settings

pytestmark = [pytest.mark.tools, pytest.mark.timeout(300), pytest.mark.parametrize("overlay", OVERLAYS)]


def loaded(overlay: str) -> Settings:
    """Return the settings as the services of an overlay load them."""
    return load(environ={name: value for name, value in settings(overlay).items() if value})


def scalers(overlay: str) -> dict[str, tuple[int, int]]:
    """Return (fewest, most) replicas of each Deployment that is scaled."""
    found: dict[str, tuple[int, int]] = {}
    for manifest in of_kind(overlay, "HorizontalPodAutoscaler").values():
        spec = manifest["spec"]
        found[spec["scaleTargetRef"]["name"]] = (spec["minReplicas"], spec["maxReplicas"])
    for manifest in of_kind(overlay, "ScaledObject").values():
        spec = manifest["spec"]
        assert spec["scaleTargetRef"]["name"] not in found, "two scalers of one Deployment"
        found[spec["scaleTargetRef"]["name"]] = (spec["minReplicaCount"], spec["maxReplicaCount"])
    return found


def selects(selector: dict[str, str], deployment: Manifest) -> bool:
    return selector.items() <= labels(deployment).items()


def test_the_services_know_every_setting(overlay: str) -> None:
    """inv 11: settings and secrets load; a secret is in the Secret and nothing else is."""
    config = loaded(overlay)
    assert config.membership.kind == "consul"
    secret = {name for m in of_kind(overlay, "Secret").values() for name in m.get("data") or {}}
    variables = {setting.variable: f"{setting.section}.{setting.name}" for setting in all_settings()}
    assert {variables[name] for name in secret} <= SECRETS
    public = set(settings(overlay)) - secret
    assert not {variables[name] for name in public} & SECRETS
    with pytest.raises(Stop, match="HOLDFAST_ACCESS_DRAIN_RAET"):
        load(environ={"HOLDFAST_ACCESS_DRAIN_RAET": "1"})


def test_a_changed_setting_rolls_the_pods_out(overlay: str) -> None:
    """Names of settings carry a checksum, and all pods name the very ones that exist."""
    names = {name for kind in ("ConfigMap", "Secret") for name in of_kind(overlay, kind)}
    for role in ROLES:
        (container,) = pod(of_kind(overlay, "Deployment")[role])["containers"]
        used = {next(iter(source.values()))["name"] for source in container["envFrom"]}
        assert used <= names
        assert all(re.search(r"-[a-z0-9]{10}$", name) for name in used)


def test_settings_of_kubernetes_do_not_mix_with_ours(overlay: str) -> None:
    """Links to Services would be HOLDFAST_ variables that no service knows, and none would start."""
    services = of_kind(overlay, "Service")
    assert any(name.startswith("holdfast-") for name in services)
    for name in ROLES:
        assert pod(of_kind(overlay, "Deployment")[name])["enableServiceLinks"] is False


def test_a_drain_fits_into_the_grace(overlay: str) -> None:
    """inv 10: a full pod has the time to send its clients away at the set rate, and to end in order."""
    config = loaded(overlay)
    drain = config.process.drain_seconds
    assert config.access.connections / config.access.drain_rate < drain - 3
    for role in ROLES:
        spec = pod(of_kind(overlay, "Deployment")[role])
        hook = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {})
        assert spec["terminationGracePeriodSeconds"] >= hook.get("seconds", 0) + drain + 10


def test_a_node_can_always_be_drained(overlay: str) -> None:
    """Fewer must be available than there are at least, or every eviction is refused for ever."""
    fewest = {name: low for name, (low, _) in scalers(overlay).items()}
    deployments = of_kind(overlay, "Deployment")
    for name, deployment in deployments.items():
        fewest.setdefault(name, deployment["spec"].get("replicas", 1))
    guarded = set()
    for budget in of_kind(overlay, "PodDisruptionBudget").values():
        chosen = [n for n, d in deployments.items() if selects(budget["spec"]["selector"]["matchLabels"], d)]
        assert len(chosen) == 1
        assert budget["spec"]["minAvailable"] < fewest[chosen[0]]
        guarded.update(chosen)
    assert guarded >= set(ROLES)


def test_replicas_have_one_master_and_fit_the_partitions(overlay: str) -> None:
    """What is scaled says no number of its own; more consumers than partitions would be idle."""
    config = loaded(overlay)
    found = scalers(overlay)
    assert set(found) == set(ROLES)
    for name, (low, high) in found.items():
        assert "replicas" not in of_kind(overlay, "Deployment")[name]["spec"]
        assert low < high
    assert all(found[name][1] <= config.kafka.partitions for name in ROLES[1:])


def test_keda_watches_the_topics_and_groups_that_the_services_use(overlay: str) -> None:
    """The lag of another group would scale nothing."""
    config = loaded(overlay)
    wanted = {
        "holdfast-logic": (config.kafka.group, f"{config.kafka.prefix}.inbound"),
        "holdfast-dispatch": (f"{config.kafka.group}-dispatch", f"{config.kafka.prefix}.outbound"),
    }
    for name, manifest in of_kind(overlay, "ScaledObject").items():
        lag = manifest["spec"]["triggers"][0]["metadata"]
        assert (lag["consumerGroup"], lag["topic"]) == wanted[name]
        assert lag["bootstrapServers"] == config.kafka.servers


def test_roll_outs_never_take_capacity_away(overlay: str) -> None:
    """A new pod is ready before an old one goes, one at a time."""
    for name in ROLES:
        strategy = of_kind(overlay, "Deployment")[name]["spec"]["strategy"]["rollingUpdate"]
        assert strategy == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_roll_out_needs_no_node_more(overlay: str) -> None:
    """Pods that may not share a node share it with those that they replace, or a roll-out hangs for ever."""
    for deployment in of_kind(overlay, "Deployment").values():
        kept_apart = pod(deployment).get("affinity", {}).get("podAntiAffinity", {})
        for term in kept_apart.get("requiredDuringSchedulingIgnoredDuringExecution", []):
            assert term["matchLabelKeys"] == ["pod-template-hash"]


def test_probes_ask_what_the_process_answers(overlay: str) -> None:
    """Ready and alive are different questions, on the port that serves them."""
    config = loaded(overlay)
    for name in ROLES:
        (container,) = pod(of_kind(overlay, "Deployment")[name])["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["metrics"] == config.process.metrics_port
        probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("readiness", "liveness", "startup")}
        assert {probe["port"] for probe in probes.values()} == {"metrics"}
        paths = {kind: probe["path"] for kind, probe in probes.items()}
        assert paths == {"readiness": "/readyz", "liveness": "/healthz", "startup": "/healthz"}
        if name == "holdfast-access":
            access = config.access
            wanted = (access.websocket_port, access.tcp_port, config.nodelink.port)
            assert tuple(ports[port] for port in ("websocket", "tcp", "nodelink")) == wanted
        if name == "holdfast-logic":
            assert ports["api"] == config.api.port


def test_selectors_choose_what_exists(overlay: str) -> None:
    """Every Service, budget, scaler and monitor has pods (or Services), and ports that those have."""
    deployments = of_kind(overlay, "Deployment")
    for service in of_kind(overlay, "Service").values():
        chosen = [d for d in deployments.values() if selects(service["spec"]["selector"], d)]
        assert len(chosen) == 1, service["metadata"]["name"]
        ports = {port["name"] for port in pod(chosen[0])["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for monitor in of_kind(overlay, "ServiceMonitor").values():
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [
            s
            for s in of_kind(overlay, "Service").values()
            if wanted <= s["metadata"].get("labels", {}).items()
        ]
        assert len(found) == 1
        names = {port["name"] for port in found[0]["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= names
        # Alerts go by these jobs.
        assert found[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]] in ROLES


def test_pods_may_do_no_more_than_they_need(overlay: str) -> None:
    """No token, no root, no capability, no writable root file system; memory is bounded, CPU is asked for."""
    for name, deployment in of_kind(overlay, "Deployment").items():
        spec = pod(deployment)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            if name.startswith("holdfast-"):
                assert context["readOnlyRootFilesystem"] is True
                assert spec["serviceAccountName"] == name
    for account in of_kind(overlay, "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False
    assert not [m for m in manifests(overlay) if m["kind"] in ("Role", "ClusterRole", "RoleBinding")]


def test_everything_is_in_one_namespace(overlay: str) -> None:
    """Nothing lands elsewhere by accident."""
    assert {m["metadata"].get("namespace", "holdfast") for m in manifests(overlay)} == {"holdfast"}
