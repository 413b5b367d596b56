//! Where the tests find the programs and servers that `tests/run` has prepared, and where they may write.

use std::env;
use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The directory of the built programs `ingest` and `processor`.
#[must_use]
pub fn bin_dir() -> PathBuf {
    required("HOOKLINE_BIN_DIR")
}

/// The directory of the Kafka broker's jars.
#[must_use]
pub fn kafka_lib() -> PathBuf {
    required("HOOKLINE_KAFKA_LIB")
}

/// The directory of PostgreSQL's `initdb` and `postgres`.
#[must_use]
pub fn postgres_bin() -> PathBuf {
    required("HOOKLINE_POSTGRES_BIN")
}

/// The stand-in for MongoDB that `tests/run sinks` builds.
#[must_use]
pub fn ferretdb() -> PathBuf {
    test_tools().join("ferretdb/ferretdb")
}

/// The Python that has the stand-in for Snowflake, which `tests/run sinks` installs.
#[must_use]
pub fn fakesnow() -> PathBuf {
    test_tools().join("fakesnow/bin/python")
}

/// The Python that has the SMTP server, which `tests/run e2e` installs.
#[must_use]
pub fn smtp() -> PathBuf {
    test_tools().join("smtp/bin/python")
}

/// A program of a Debian package, which may stand where only root looks for it.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn debian_program(name: &str, package: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let found =
        env::split_paths(&path).chain(["/usr/sbin".into()]).map(|dir| dir.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| {
        panic!("there is no {name}: Debian's package {package} has it; run tests/run sinks")
    })
}

/// A program of the virtual environment: `python`, `node`.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    test_tools().join("venv/bin").join(name)
}

/// The directory of the npm packages (`node_modules` stands in it).
#[must_use]
pub fn node_dir() -> PathBuf {
    test_tools().join("node")
}

/// json-server, for `node`.
#[must_use]
pub fn json_server() -> PathBuf {
    test_tools().join("json-server/node_modules/json-server/lib/cli/bin.js")
}

/// The OpenTelemetry collector.
#[must_use]
pub fn collector() -> PathBuf {
    test_tools().join("collector/collector")
}

/// A file of this package, such as `lib/sign-octokit.mjs`.
#[must_use]
pub fn package_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A new directory, removed with the value; `tests/run` removes what a killed test leaves.
///
/// Other users may enter it: as root, the databases run as another user.
#[must_use]
pub fn scratch(name: &str) -> TempDir {
    let base = required("HOOKLINE_TEST_TMP");
    tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(&base)
        .unwrap_or_else(|error| panic!("no scratch directory in {}: {error}", base.display()))
}

fn test_tools() -> PathBuf {
    required("HOOKLINE_TEST_TOOLS")
}

fn required(name: &str) -> PathBuf {
    let value: Option<OsString> = env::var_os(name);
    value.map_or_else(
        || {
            panic!(
                "{name} is not set: these tests need servers and built programs; run tests/run e2e \
                 (for one test: tests/run e2e -- NAME)"
            )
        },
        PathBuf::from,
    )
}
