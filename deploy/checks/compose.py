"""compose.yaml: valid by the compose specification, pinned, and in agreement with its hookline.toml."""

import json
import os

import yaml

import dockerfile
from configs import compose_config, secret_files
from harness import DEPLOY, documents, port, run, seconds, workspace_version

COMPOSE = DEPLOY / "compose.yaml"


def loaded():
    """The file as `docker compose config` would print it."""
    environment = {"HOOKLINE_SECRETS_DIR": ""}
    return json.loads(run(os.environ["HOOKLINE_COMPOSE_CONFIG"], "-format=json", COMPOSE, env=environment, cwd=DEPLOY))


def check_specification():
    """the file is valid by the compose specification, and all that services refer to is there"""
    services = loaded()["services"]
    assert set(services) == {"ingest", "processor", "kafka", "postgres", "collector", "prometheus"}, set(services)


def check_images():
    """images are pinned; Hookline's own are built from the Dockerfile's targets, and tagged with the version"""
    for name, service in loaded()["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert tag[0].isdigit() or tag[0] == "v", f"{name}: {service['image']} is not pinned"
        if "build" in service:
            build = service["build"]
            assert build["target"] == name and build["target"] in dockerfile.stages(), name
            assert (DEPLOY.parent / build["dockerfile"]) == dockerfile.DOCKERFILE, build
            assert service["image"] == f"hookline/{name}:{workspace_version()}", service["image"]


def check_files():
    """every file that is mounted exists"""
    model = loaded()
    sources = [entry["file"] for kind in ("configs", "secrets") for entry in model[kind].values()]
    for service in model["services"].values():
        sources += [v["source"] for v in service.get("volumes", []) if v["type"] == "bind"]
    for source in sources:
        assert os.path.exists(source), f"{source} does not exist"


def check_dependencies():
    """what somebody waits for until it is healthy has a health check"""
    services = loaded()["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy", f"{name} does not wait for {other} to be healthy"
            assert "healthcheck" in services[other], f"{other} has no health check"


def check_stop():
    """a container is given longer to stop than its drain_timeout"""
    config, services = compose_config(), loaded()["services"]
    drains = {"ingest": config["ingest"], "processor": config["pipelines"]["warehouse"]}
    for name, part in drains.items():
        assert seconds(services[name]["stop_grace_period"]) > seconds(part["drain_timeout"]), name


def check_secrets():
    """each program gets the secrets that it needs, and no more; all are plainly examples"""
    text = (DEPLOY / "compose/hookline.toml").read_text()
    model = loaded()
    for name, pipeline in ("ingest", None), ("processor", "warehouse"):
        files = secret_files(text, pipeline)
        given = {f"/run/secrets/{secret['source']}" for secret in model["services"][name]["secrets"]}
        assert given == files, f"{name}: {given ^ files}"
    values = {name: open(entry["file"]).read().strip() for name, entry in model["secrets"].items()}
    for name, value in values.items():
        assert "example-only" in value, f"{name} is not plainly an example"
    database = model["services"]["postgres"]["environment"]
    url = "postgres://{POSTGRES_USER}:{}@postgres:5432/{POSTGRES_DB}".format(values["postgres-password"], **database)
    assert values["warehouse-url"] == url, "warehouse-url is not that of the service postgres"


def check_addresses():
    """ports, addresses and the pipeline's name agree with hookline.toml"""
    config, services = compose_config(), loaded()["services"]
    pipeline = config["pipelines"]["warehouse"]
    assert services["processor"]["command"] == ["run", "--pipeline", "warehouse"]
    assert services["ingest"]["ports"][0]["target"] == port(config["ingest"]["listen"])
    assert f"//{config['kafka']['bootstrap_servers']}" in services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    (volume,) = services["processor"]["volumes"]
    assert pipeline["state_dir"].startswith(volume["target"] + "/"), "the state is not in the volume"
    assert pipeline["instance"], "a container's host name is not stable"
    (scrapes,) = documents(DEPLOY / "prometheus/scrape-compose.yaml")
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in scrapes["scrape_configs"]}
    (collector,) = documents(DEPLOY / "compose/collector.yaml")
    reader = collector["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"]["prometheus"]
    assert targets == {
        "hookline-ingest": [f"ingest:{port(config['ingest']['admin_listen'])}"],
        "hookline-processor": [f"processor:{port(pipeline['admin_listen'])}"],
        "collector": [f"collector:{reader['port']}"],
    }, targets
    protocols = collector["receivers"]["otlp"]["protocols"]
    for name in "ingest", "processor":
        endpoint = services[name]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
        assert endpoint == f"http://collector:{port(protocols['http']['endpoint'])}", endpoint


def check_locked_down():
    """Hookline's containers have a read-only root, no capabilities, and publish to this machine alone"""
    model = yaml.safe_load(COMPOSE.read_text())
    for name in "ingest", "processor":
        service = model["services"][name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for name, service in model["services"].items():
        for published in service.get("ports", []):
            assert published.startswith("127.0.0.1:"), f"{name} publishes {published} to the network"
