"""The manifests: valid for each supported Kubernetes, scored, and in agreement with the ConfigMap's hookline.toml."""

import os
import re
from functools import cache

import kubernetes_validate
import yaml

from configs import kubernetes_config, kubernetes_text, secret_files
from harness import DEPLOY, attempt, documents, port, run, seconds, workspace_version

DIRECTORY = DEPLOY / "kubernetes"
# Those that Kubernetes or the big providers still support.
VERSIONS = ["1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]
# Where kube-score's advice is not taken, and why.
NOT_SCORED = [
    # A CPU limit throttles, and delays acknowledgements and heartbeats; requests and memory limits are set.
    "--ignore-container-cpu-limit",
    # Tags are never moved, and a registry that is away must not keep pods from starting.
    "--ignore-test=container-image-pull-policy",
    # topologySpreadConstraints spread the pods, which it does not know.
    "--ignore-test=deployment-has-host-podantiaffinity",
    "--ignore-test=statefulset-has-host-podantiaffinity",
]
# Manifests that kustomization.yaml names in a comment.
OPTIONAL = ["alerts.yaml", "ingest-autoscaling.yaml", "poller.yaml"]
RESTRICTED = {
    "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
}


@cache
def rendered():
    """What `kubectl apply -k` sends."""
    return run(os.environ["HOOKLINE_KUSTOMIZE"], "build", DIRECTORY)


def objects(kind=None):
    found = [document for document in yaml.safe_load_all(rendered())]
    return [o for o in found if kind in (None, o["kind"])]


def workloads():
    return objects("Deployment") + objects("StatefulSet")


def pod(workload):
    return workload["spec"]["template"]["spec"]


def container(workload):
    (only,) = pod(workload)["containers"]
    return only


def section(workload):
    """The part of hookline.toml that a workload goes by."""
    arguments = container(workload)["args"]
    if arguments == ["serve"]:
        return kubernetes_config()["ingest"]
    assert arguments[:2] == ["run", "--pipeline"], arguments
    return kubernetes_config()["pipelines"][arguments[2]]


def check_kustomization():
    """kustomize takes every manifest but the example of a Secret and what is not for everybody"""
    (kustomization,) = documents(DIRECTORY / "kustomization.yaml")
    left_out = {"kustomization.yaml", "secret.example.yaml", *OPTIONAL}
    assert set(kustomization["resources"]) == {p.name for p in DIRECTORY.glob("*.yaml")} - left_out
    for name in OPTIONAL:
        assert f"# - {name}" in (DIRECTORY / "kustomization.yaml").read_text()
    plain = [o for name in kustomization["resources"] for o in documents(DIRECTORY / name)]
    key = lambda o: (o["kind"], o["metadata"]["name"])
    assert sorted(plain, key=key) == sorted(objects(), key=key), "kubectl apply -f would do something else"


def check_schemas():
    """every manifest is valid, strictly, for each supported version of Kubernetes"""
    others = [o for name in ("secret.example.yaml", *OPTIONAL) for o in documents(DIRECTORY / name)]
    for version in VERSIONS:
        for manifest in objects() + others:
            name = f"{manifest['kind']} {manifest['metadata']['name']}"
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise AssertionError(f"{name}, Kubernetes {version}: {error.message}") from None


def check_a_wrong_field():
    """a wrong field is refused, so the check above means something"""
    manifest = objects("StatefulSet")[0]
    pod(manifest)["terminationGracePeriod"] = 30
    try:
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)
    except kubernetes_validate.ValidationError:
        return
    raise AssertionError("terminationGracePeriod was taken")


def check_score():
    """kube-score has nothing to say, with the exceptions that are given with their reasons"""
    manifests = DEPLOY / "kubernetes"
    taken = documents(manifests / "kustomization.yaml")[0]["resources"]
    files = [manifests / name for name in (*taken, "alerts.yaml", "poller.yaml")]
    version = f"--kubernetes-version=v{VERSIONS[-1]}"
    result = attempt(os.environ["HOOKLINE_KUBE_SCORE"], "score", "--exit-one-on-warning", "--output-format=ci",
                     version, *NOT_SCORED, *files)
    said = "\n".join(line for line in result.stdout.splitlines() if not line.startswith(("[OK]", "[SKIPPED]")))
    assert result.returncode == 0, said + result.stderr


def check_restricted():
    """pods run as the image's user, with the restricted profile, and without a token for the cluster"""
    assert workloads()
    for workload in workloads():
        spec, name = pod(workload), workload["metadata"]["name"]
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["securityContext"]["fsGroup"] == 65532, f"{name}: the secrets and the volume belong to others"
        assert container(workload)["securityContext"] == RESTRICTED, name
    (namespace,) = objects("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def check_images():
    """images have the workspace's version"""
    for workload in workloads():
        assert re.fullmatch(rf"hookline/\w+:{re.escape(workspace_version())}", container(workload)["image"])


def check_stop():
    """a pod is given longer to stop than preStop and drain_timeout together"""
    for workload in workloads():
        pre_stop = container(workload).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = pre_stop + seconds(section(workload)["drain_timeout"])
        # The poll thread of the processor ends a second later.
        assert pod(workload)["terminationGracePeriodSeconds"] > needed + 1, workload["metadata"]["name"]


def check_admin():
    """probes, scraping and services go to the ports of hookline.toml, which is reachable from outside the pod"""
    for workload in workloads():
        name, part, it = workload["metadata"]["name"], section(workload), container(workload)
        assert part["admin_listen"].startswith("0.0.0.0:"), f"{name}: probes cannot reach {part['admin_listen']}"
        ports = {p["name"]: p["containerPort"] for p in it["ports"]}
        assert ports["admin"] == port(part["admin_listen"]), name
        annotations = workload["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(ports["admin"]), name
        probes = {kind: it[kind]["httpGet"] for kind in ("readinessProbe", "livenessProbe")}
        assert probes["readinessProbe"] == {"path": "/readyz", "port": "admin"}, name
        assert probes["livenessProbe"] == {"path": "/livez", "port": "admin"}, name
        if "listen" in part:
            assert ports["webhooks"] == port(part["listen"]), name
        for service in objects("Service"):
            labels = workload["spec"]["template"]["metadata"]["labels"]
            if service["spec"]["selector"].items() <= labels.items():
                assert all(p["targetPort"] in ports for p in service["spec"]["ports"]), name


def check_selectors():
    """every selector matches exactly one workload's pods, or all of them where it is meant to"""
    labels = {w["metadata"]["name"]: w["spec"]["template"]["metadata"]["labels"] for w in workloads()}
    matched = lambda selector: {name for name, own in labels.items() if selector.items() <= own.items()}
    for workload in workloads():
        name = workload["metadata"]["name"]
        assert matched(workload["spec"]["selector"]["matchLabels"]) == {name}
        for constraint in pod(workload)["topologySpreadConstraints"]:
            assert matched(constraint["labelSelector"]["matchLabels"]) == {name}
        budgets = [b for b in objects("PodDisruptionBudget") if matched(b["spec"]["selector"]["matchLabels"]) == {name}]
        assert len(budgets) == 1, f"{name} has {len(budgets)} disruption budgets"
    for service in objects("Service"):
        assert len(matched(service["spec"]["selector"])) == 1, service["metadata"]["name"]
    for policy in objects("NetworkPolicy"):
        selector = policy["spec"]["podSelector"].get("matchLabels", {})
        assert matched(selector), f"NetworkPolicy {policy['metadata']['name']} is for nobody"


def check_processors():
    """a processor's state is in its volume, its name is the pod's, and no replica is without partitions"""
    assert objects("StatefulSet")
    for workload in objects("StatefulSet"):
        name, spec, it = workload["metadata"]["name"], workload["spec"], container(workload)
        mounts = {m["name"]: m["mountPath"] for m in it["volumeMounts"]}
        (claim,) = spec["volumeClaimTemplates"]
        assert section(workload)["state_dir"].startswith(mounts[claim["metadata"]["name"]] + "/"), name
        assert "instance" not in section(workload), f"{name}: all replicas would have the same name"
        names = [e for e in it["env"] if e["name"] == "HOSTNAME"]
        assert names == [{"name": "HOSTNAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}], name
        assert spec["podManagementPolicy"] == "Parallel", name
        assert spec["replicas"] <= kubernetes_config()["log"]["partitions"], name
        (service,) = [s for s in objects("Service") if s["metadata"]["name"] == spec["serviceName"]]
        assert service["spec"]["clusterIP"] == "None", f"{service['metadata']['name']} is not headless"
        # A pod's name is a label's value: 63 characters.
        assert len(f"{name}-999") <= 63, name
    pipelines = [container(w)["args"][2] for w in objects("StatefulSet")]
    assert sorted(pipelines) == sorted(set(pipelines)), "two StatefulSets of one pipeline"
    assert set(pipelines) == set(kubernetes_config()["pipelines"]), pipelines


def check_secrets():
    """each workload gets the secrets that it needs, and no more: keys of the example, whose values are placeholders"""
    (secret,) = documents(DIRECTORY / "secret.example.yaml")
    assert set(secret["stringData"].values()) == {"REPLACE-ME"}
    used = set()
    for workload in workloads():
        mounts = {m["name"]: m["mountPath"] for m in container(workload)["volumeMounts"]}
        (volume,) = [v for v in pod(workload)["volumes"] if "secret" in v]
        assert volume["secret"]["secretName"] == secret["metadata"]["name"]
        keys = {item["path"]: item["key"] for item in volume["secret"]["items"]}
        given = {f"{mounts[volume['name']]}/{path}" for path in keys}
        arguments = container(workload)["args"]
        needed = secret_files(kubernetes_text(), None if arguments == ["serve"] else arguments[2])
        assert given == needed, given ^ needed
        used |= set(keys.values())
    assert used == set(secret["stringData"]), used ^ set(secret["stringData"])
    assert not objects("Secret"), "applying the manifests would replace the real Secret"
