//! The senders that the sandbox plays, their secrets, and the configuration that Hookline needs for them.
//!
//! The secrets are published here: they are for trying things out only.

use std::fmt::Write as _;
use std::time::Duration;

/// The source of purchase orders and connection events, one connection a customer.
pub const MAKINI: &str = "makini";
/// The source of repository events.
pub const GITHUB: &str = "github";
/// The connections at [`MAKINI`].
pub const CONNECTIONS: [Connection; 2] = [
    Connection { id: "acme", secret: Secret { name: "MAKINI_ACME_SECRET", value: "sandbox-acme-8d1f3c7a" } },
    Connection {
        id: "globex",
        secret: Secret { name: "MAKINI_GLOBEX_SECRET", value: "sandbox-globex-52e90b46" },
    },
];
/// What [`GITHUB`] signs with.
pub const GITHUB_SECRET: Secret = Secret { name: "GITHUB_WEBHOOK_SECRET", value: "sandbox-github-c07be5d2" };
/// A secret that no configuration knows: what is signed with it is forged.
pub const FORGED_SECRET: &str = "guessed-by-somebody";

/// How long Hookline waits for a number that is missing, in the sandbox's configuration. It is the time that
/// the sender has for closing a gap, and that the check waits for those that never close.
pub const GAP_WAIT: Duration = Duration::from_secs(3);
/// How many seconds old a signed timestamp may be.
pub const TOLERANCE_S: i64 = 300;

/// A customer's link at a source.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Its id, as in the path.
    pub id: &'static str,
    /// What it signs with.
    pub secret: Secret,
}

/// A secret, and the environment variable that it usually stands in.
#[derive(Clone, Copy, Debug)]
pub struct Secret {
    /// The environment variable.
    pub name: &'static str,
    /// The secret itself, published above.
    pub value: &'static str,
}

/// Every secret that the configuration refers to.
#[must_use]
pub fn secrets() -> [Secret; 3] {
    [CONNECTIONS[0].secret, CONNECTIONS[1].secret, GITHUB_SECRET]
}

/// The `[sources.*]` tables of `hookline.toml` for these senders. `reference` says where a secret is to be
/// found, such as `env:NAME` or `file:/path`.
#[must_use]
pub fn config_toml(gap_wait: Duration, reference: impl Fn(Secret) -> String) -> String {
    let mut out = format!(
        r#"[sources.{MAKINI}]
connection = "path"
id = "/id"
type = "/type"
entity = "/data/number"
entity_prefix = "purchase-order-"

[sources.{MAKINI}.verify.hmac]
header = "x-makini-signature"
hash = "sha256"
encoding = "hex"
prefix = "sha256="
template = "{{timestamp}}.{{body}}"
timestamp_header = "x-makini-timestamp"
tolerance = "{TOLERANCE_S}s"

[sources.{MAKINI}.order.sequence]
at = "/sequence"
start = 1
gap_wait = "{}ms"
gap_policy = "skip"

[[sources.{MAKINI}.rules]]
types = ["connection.*"]
entity = "/connection_id"
entity_prefix = "connection-"
order.version = {{ at = "/timestamp" }}

[[sources.{MAKINI}.rules]]
types = ["ping"]
ignore = true

"#,
        gap_wait.as_millis(),
    );
    for connection in CONNECTIONS {
        let reference = reference(connection.secret);
        let _ =
            writeln!(out, "[sources.{MAKINI}.connections.{}]\nsecrets = [\"{reference}\"]", connection.id);
    }
    let _ = write!(
        out,
        "\n[sources.{GITHUB}]\nverify.github = {{}}\nsecrets = [\"{}\"]\nentity = \"/repository/full_name\"\n",
        reference(GITHUB_SECRET),
    );
    out
}
