//! TLS to a server with a certificate of its own. The one to trust comes from the environment, so from that of a process
//! of its own: each target has an ignored test `a_sink_opens_by_tls`, which another one runs.

use std::env;
use std::path::Path;
use std::process::Command;

const PLACE: &str = "HOOKLINE_TEST_TLS_PLACE";

/// Runs the target's `a_sink_opens_by_tls`, which opens a sink at a place: whether it passed, and what it said. Without
/// a certificate to trust, the operating system's count.
pub(crate) fn opens(place: &str, trusted: Option<&Path>) -> (bool, String) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "a_sink_opens_by_tls"]).env(PLACE, place);
    if let Some(certificate) = trusted {
        command.env("SSL_CERT_FILE", certificate);
    }
    let ended = command.output().unwrap();
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(text.contains("running 1 test"), "{text}");
    (ended.status.success(), text)
}

/// In `a_sink_opens_by_tls`: the place that [`opens`] was given.
pub(crate) fn place() -> String {
    env::var(PLACE).unwrap()
}
