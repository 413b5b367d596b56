"""Scrape configurations and alert rules: valid, tested, and about metrics that the programs have."""

import json
import re
import tempfile
from pathlib import Path

import yaml

from harness import DEPLOY, ROOT, documents, run
from kubernetes import container, workloads

DIRECTORY = DEPLOY / "prometheus"
RULES = sorted((DIRECTORY / "rules").glob("*.yaml"))
TESTS = sorted((DIRECTORY / "tests").glob("*.yaml"))
SOURCES = {
    "ingest_": [ROOT / "ingest/src/metrics.rs", ROOT / "ingest/src/problem.rs"],
    "hookline_alerts": [ROOT / "processor/src" / name for name in ("metrics.rs", "alerts/channel.rs", "alerts/book.rs")],
    "hookline_connection": [ROOT / "processor/src" / name for name in ("metrics.rs", "sink/connections/shown.rs")]
    + [ROOT / "shared/src/config/status.rs"],
    "hookline_processor_": [ROOT / "processor/src" / name for name in ("metrics.rs", "progress.rs", "lane.rs")],
}


def rules():
    return [rule for path in RULES for group in documents(path)[0]["groups"] for rule in group["rules"]]


def check_rules():
    """the rules are valid"""
    run("promtool", "check", "rules", *RULES)


def check_rule_tests():
    """the rules do what their tests say"""
    run("promtool", "test", "rules", *TESTS)


def check_alerts_are_tested():
    """each alert has a test in which it fires and one in which it does not"""
    cases = [
        case for path in TESTS for test in documents(path)[0]["tests"] for case in test.get("alert_rule_test", [])
    ]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    stays_quiet = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert alerts == fires, f"never fire: {alerts - fires}"
    assert alerts == stays_quiet, f"never quiet: {alerts - stays_quiet}"


def check_alerts_are_explained():
    """each alert has a severity, a summary and a description"""
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
            assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]


def check_names():
    """each metric, and each value of a label, that a rule names is one that the programs have"""
    for prefix, paths in SOURCES.items():
        text = "".join(path.read_text() for path in paths)
        used = set()
        for rule in rules():
            for metric, labels in re.findall(rf"(?<![:\w])({prefix}\w+)(\{{[^}}]*\}})?", rule["expr"]):
                used.add(metric)
                name = metric.removesuffix("_bucket")
                assert f'"{name}"' in text, f"there is no metric {name}"
                for label, values in re.findall(r'(\w+)=~?"([^"]*)"', labels):
                    assert f'"{label}"' in text, f"{name} has no label {label}"
                    for value in values.split("|"):
                        assert f'"{value}"' in text, f"{label} of {name} is never {value}"
        assert used, f"no rule is about {prefix}*"


def check_compose_scraping():
    """the scrape configuration for compose is valid, with its rules"""
    run("promtool", "check", "config", DIRECTORY / "scrape-compose.yaml")


def check_kubernetes_scraping():
    """in a cluster, each pod is scraped once, at its admin port, with the labels that the rules use"""
    (config,) = documents(DIRECTORY / "scrape-kubernetes.yaml")
    (job,) = config["scrape_configs"]
    # In its place files: Debian's promtool is built without the discovery in Kubernetes.
    (discovery,) = job.pop("kubernetes_sd_configs")
    assert discovery == {"role": "pod", "namespaces": {"names": ["hookline"]}}, discovery
    job["file_sd_configs"] = [{"files": ["pods.json"]}]
    pods, expected = [], {}
    for number, workload in enumerate(workloads(), 1):
        template, name = workload["spec"]["template"]["metadata"], workload["metadata"]["name"]
        for phase in "Running", "Succeeded":
            for port in container(workload)["ports"]:
                address = f"10.0.0.{number}:{port['containerPort']}"
                pods.append({"targets": [address], "labels": {
                    "__meta_kubernetes_namespace": "hookline",
                    "__meta_kubernetes_pod_name": f"{name}-{phase}",
                    "__meta_kubernetes_pod_phase": phase,
                    "__meta_kubernetes_pod_container_port_name": port["name"],
                    **{meta("annotation", k): v for k, v in template["annotations"].items()},
                    **{meta("label", k): v for k, v in template["labels"].items()},
                }})
                if phase == "Running" and port["name"] == "admin":
                    expected[address] = (template["labels"]["app.kubernetes.io/name"], "hookline", f"{name}-{phase}")
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "pods.json").write_text(json.dumps(pods))
        path = Path(directory) / "prometheus.yaml"
        path.write_text(yaml.safe_dump({**config, "rule_files": []}))
        run("promtool", "check", "config", path)
        found = json.loads(run("promtool", "check", "service-discovery", "--timeout=1s", path, job["job_name"]))
    targets = [target["labels"] for target in found if target["labels"]]
    scraped = {t["instance"]: (t["job"], t["namespace"], t["pod"]) for t in targets}
    assert len(targets) == len(scraped) and scraped == expected, f"{scraped}\nexpected: {expected}"
    jobs = {job for job, _, _ in expected.values()}
    assert all(f'job="{name}"' in "".join(rule["expr"] for rule in rules()) for name in jobs), jobs


def meta(kind, key):
    """The label in which the discovery has a pod's label or annotation."""
    return f"__meta_kubernetes_pod_{kind}_" + re.sub(r"\W", "_", key)
