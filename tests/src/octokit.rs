//! GitHub's own example payloads, signed by GitHub's own library: npm `@octokit/webhooks-examples` and
//! `@octokit/webhooks-methods`, run by Node.

use std::process::Command;

use serde::Deserialize;

use crate::setup;

/// One webhook as GitHub would send it.
#[derive(Clone, Debug, Deserialize)]
pub struct Delivery {
    /// The header `X-GitHub-Event`.
    pub event: String,
    /// The body.
    pub body: String,
    /// The header `X-Hub-Signature-256`.
    pub signature: String,
}

/// All example payloads, signed with `secret`.
///
/// # Panics
/// When Node or the packages do not work.
#[must_use]
pub fn deliveries(secret: &str) -> Vec<Delivery> {
    let output = Command::new(setup::tool("node"))
        .arg(setup::package_file("lib/sign-octokit.mjs"))
        .arg(setup::node_dir())
        .env("WEBHOOK_SECRET", secret)
        .output()
        .expect("node (tests/run installs it)");
    assert!(output.status.success(), "node: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    lines.lines().map(|line| serde_json::from_str(line).expect("a delivery")).collect()
}
