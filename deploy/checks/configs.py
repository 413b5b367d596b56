"""Every hookline.toml below deploy/ is one that the programs take, with dummies for the secrets."""

import json
import re
import tempfile
import tomllib
from pathlib import Path

from harness import DEPLOY, PROGRAMS, attempt, documents, run, workspace_version

# Fits wherever a secret stands: it has the form of Standard Webhooks', which is the only one that is prescribed.
DUMMY = "whsec_ZHVtbXktc2VjcmV0LW9mLWRlcGxveS1jaGVjaw=="
CONFIGMAP = DEPLOY / "kubernetes/configmap.yaml"


def kubernetes_text():
    """The hookline.toml of the ConfigMap."""
    (configmap,) = documents(CONFIGMAP)
    return configmap["data"]["hookline.toml"]


def kubernetes_config():
    return tomllib.loads(kubernetes_text())


def compose_config():
    return tomllib.loads((DEPLOY / "compose/hookline.toml").read_text())


def secret_files(text, pipeline=None):
    """The files that a pipeline's processor, or else ingest, takes secrets from."""
    config = tomllib.loads(text)
    own = config["pipelines"][pipeline] if pipeline else config["sources"]
    return set(re.findall(r'"file:([^"]+)"', json.dumps([config["kafka"], own])))


def ask(program, text, *arguments):
    """Runs a program's `check` on a text, its secrets replaced by dummies."""
    with tempfile.TemporaryDirectory() as directory:
        dummy = Path(directory) / "dummy-secret"
        dummy.write_text(DUMMY + "\n")
        config = Path(directory) / "hookline.toml"
        config.write_text(re.sub(r'"file:[^"]+"', f'"file:{dummy}"', text))
        env = {name: DUMMY for name in re.findall(r'"env:([^"]+)"', text)}
        return attempt(PROGRAMS / program, "check", "--config", config, *arguments, env=env)


def assert_taken(text, name):
    for program, arguments in [("ingest", []), *(("processor", ["--pipeline", p]) for p in pipelines(text))]:
        result = ask(program, text, *arguments)
        words = " ".join([program, "check", *arguments])
        assert result.returncode == 0, f"{name}: {words}: {result.stderr.strip()}"


def pipelines(text):
    names = list(tomllib.loads(text)["pipelines"])
    assert names, "no pipelines"
    return names


def check_the_configmap():
    """the ConfigMap's hookline.toml is taken by ingest, and by the processor for each pipeline"""
    assert_taken(kubernetes_text(), CONFIGMAP)


def check_every_file():
    """every hookline.toml is taken by ingest, and by the processor for each pipeline"""
    files = [path for path in DEPLOY.rglob("*.toml") if path.name != "Cargo.toml"]
    expected = {DEPLOY / "compose/hookline.toml", DEPLOY / "hookline.example.toml"}
    assert expected <= set(files), f"missing: {expected - set(files)}"
    for path in files:
        assert_taken(path.read_text(), path)


def check_a_wrong_key():
    """a wrong key is refused with its line, so the checks above mean something"""
    text = kubernetes_text().replace("drain_timeout", "drain_time", 1)
    line = next(n for n, line in enumerate(text.splitlines(), 1) if "drain_time " in line)
    for program, arguments in ("ingest", []), ("processor", ["--pipeline", "warehouse"]):
        result = ask(program, text, *arguments)
        assert result.returncode == 2 and f"hookline.toml:{line}:" in result.stderr, f"{program}: {result}"


def check_versions():
    """the programs are those of this workspace"""
    for program in "ingest", "processor":
        said = run(PROGRAMS / program, "--version").strip()
        assert said == f"{program} {workspace_version()}", said
