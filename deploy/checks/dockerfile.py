"""The Dockerfile, as far as it can be checked without an engine: what it copies exists in what the build sees,
and its cargo command finds a whole workspace there and compiles what it shall."""

import os
import re
import shutil
import subprocess
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from harness import DEPLOY, ROOT, run, toml_of

DOCKERFILE = DEPLOY / "Dockerfile"
# Shared libraries of gcr.io/distroless/cc-debian12 that a program may need.
LIBRARIES_OF_THE_IMAGE = {
    "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1", "libstdc++.so.6",
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1",
}


def instructions():
    """(instruction, arguments) in order, with continued lines joined and comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def stages():
    """Name → (base, [(instruction, arguments)])."""
    found = {}
    for instruction, arguments in instructions():
        if instruction == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", arguments).groups()
            found[name] = (base, [])
            last = name
        elif found:
            found[last][1].append((instruction, arguments))
    return found


def default_of(argument):
    for instruction, arguments in instructions():
        if instruction == "ARG" and arguments.startswith(f"{argument}="):
            return arguments.split("=", 1)[1]
    raise AssertionError(f"no ARG {argument}")


def in_context():
    """The files that the build sees: .dockerignore's last pattern that matches a path or its parent counts."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def seen(path):
        ignored = False
        names = [str(path), *(str(parent) for parent in path.parents if parent != Path("."))]
        for pattern in patterns:
            wanted = pattern.lstrip("!").rstrip("/")
            # A pattern without a slash is for the top: Docker's are not gitignore's.
            if any(name.count("/") == wanted.count("/") and fnmatch(name, wanted) for name in names):
                ignored = not pattern.startswith("!")
        return not ignored

    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    return [path for path in map(Path, filter(None, listed)) if (ROOT / path).is_file() and seen(path)]


def copy_context(to):
    for path in in_context():
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, to / path)


def check_copies():
    """every COPY takes something that the build sees or an earlier stage has"""
    context = {str(path) for path in in_context()} | {str(p) for path in in_context() for p in path.parents}
    known = []
    for name, (_, steps) in stages().items():
        for instruction, arguments in steps:
            assert instruction != "ADD", "COPY says what it does; ADD guesses"
            if instruction != "COPY":
                continue
            words = arguments.split()
            options = [word for word in words if word.startswith("--")]
            sources = [word for word in words if not word.startswith("--")][:-1]
            origin = [option.split("=", 1)[1] for option in options if option.startswith("--from=")]
            for source in sources:
                if not origin:
                    assert source in context, f"{source} is not in the build's context"
                    continue
                assert origin[0] in known, f"there is no stage {origin[0]} before {name}"
                made = " ".join(a for i, a in stages()[origin[0]][1] if i == "RUN")
                is_made = Path(source).name in made and source.startswith("/out/")
                assert is_made or source.removeprefix("/src/") in context, f"{origin[0]} has no {source}"
        known.append(name)


def check_nothing_else_is_seen():
    """the build sees the workspace alone: no .git, no target, no configuration, no secrets"""
    tops = {path.parts[0] for path in in_context()}
    members = toml_of(ROOT / "Cargo.toml")["workspace"]["members"]
    assert tops == {"Cargo.lock", "Cargo.toml", "LICENSE"} | {member.split("/")[0] for member in members}, tops
    deploy = {path.parts[:2] for path in in_context() if path.parts[0] == "deploy"}
    assert deploy == {("deploy", "quickstart")}, deploy


def check_images():
    """the programs run as a numbered user that is not root, in images of the same Debian as the build's"""
    all_stages = stages()
    assert default_of("RUNTIME_IMAGE") == "gcr.io/distroless/cc-debian12:nonroot"
    assert default_of("RUST_IMAGE").endswith("-bookworm"), "Debian 12 is bookworm"
    for name in "ingest", "processor":
        assert all_stages[name][0] == "runtime", name
        entry = dict(all_stages[name][1])["ENTRYPOINT"]
        assert entry == f'["/usr/local/bin/{name}"]', entry
    users = [arguments for _, steps in all_stages.values() for i, arguments in steps if i == "USER"]
    assert users == ["65532:65532"], users


def check_no_secrets():
    """no secret is an argument or an environment variable of the build"""
    for instruction, arguments in instructions():
        if instruction in ("ARG", "ENV"):
            assert not re.search(r"(?i)secret|password|token|credential|_key", arguments), arguments


def cargo_command():
    """The environment and the cargo command of the build stage."""
    steps = stages()["build"][1]
    env = dict(pair.split("=", 1) for i, arguments in steps if i == "ENV" for pair in arguments.split())
    (command,) = re.findall(r"cargo build [^&]+", " ".join(a for i, a in steps if i == "RUN"))
    return env, command.split()


def check_the_workspace_is_whole():
    """cargo's command finds a whole workspace in what the build sees, and compiles the two programs alone"""
    _, command = cargo_command()
    assert command[:3] == ["cargo", "build", "--locked"] and "--release" in command, command
    packages = [command[i + 1] for i, word in enumerate(command) if word == "-p"]
    assert packages == ["ingest", "processor"], packages
    with tempfile.TemporaryDirectory() as directory:
        copy_context(Path(directory))
        selection = [word for package in packages for word in ("-p", package)]
        tree = run("cargo", "tree", "--locked", "--edges=no-dev", "--prefix=none", *selection, cwd=directory)
    compiled = {line.split()[0] for line in tree.splitlines() if directory in line}
    assert compiled == {"ingest", "processor", "shared"}, compiled


def check_zlib_is_linked_in():
    """what the runtime image lacks is linked in"""
    env, _ = cargo_command()
    assert env.get("LIBZ_SYS_STATIC") == "1", "the image has no libz.so.1"


def build():
    """The image's build without an engine; its result needs only libraries that the image has."""
    env, command = cargo_command()
    work = Path(os.environ["HOOKLINE_BUILD_DIR"])
    shutil.rmtree(work / "src", ignore_errors=True)
    copy_context(work / "src")
    environment = {**os.environ, **env, "CARGO_TARGET_DIR": str(work / "target")}
    subprocess.run(command, cwd=work / "src", env=environment, check=True)
    for program in "ingest", "processor":
        path = work / "target/release" / program
        needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "--dynamic", path)))
        assert needed and needed <= LIBRARIES_OF_THE_IMAGE, f"{program} needs {needed - LIBRARIES_OF_THE_IMAGE}"
        print(f"        {program}: {path.stat().st_size / 1e6:.1f} MB, needs {', '.join(sorted(needed))}")
