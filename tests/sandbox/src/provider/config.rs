//! The configuration that Hookline needs for the provider: `[sources.NAME]` with rules, status and polling.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::registry::quoted;
use super::resource::Resource;

/// What the configuration depends on.
#[derive(Clone, Debug)]
pub struct ConfigOptions<'a> {
    /// The source's name.
    pub source: &'a str,
    /// The provider's address, such as `http://127.0.0.1:9000`.
    pub api_url: &'a str,
    /// The directory with the registry of connections.
    pub registry: &'a Path,
    /// How long a missing revision is waited for.
    pub gap_wait: Duration,
    /// The longest time between two polls of a list.
    pub poll_interval: Duration,
    /// How much of the time before a list's last record is asked for again.
    pub overlap: Duration,
}

/// The tables `[sources.NAME…]`.
#[must_use]
pub fn config_toml(options: &ConfigOptions<'_>) -> String {
    let ConfigOptions { source, .. } = options;
    let ms = |duration: Duration| format!("{}ms", duration.as_millis());
    let mut out = format!(
        r#"[sources.{source}]
connection = "path"
id = "/id"
type = "/type"
entity = "/data/id"
registry = {registry}
order.version = {{ at = "/data/updated_at" }}
verify.hmac = {{ header = "x-makini-signature", prefix = "sha256=", template = "{{timestamp}}.{{body}}", timestamp_header = "x-makini-timestamp" }}
"#,
        registry = quoted(&options.registry.display().to_string()),
    );
    for resource in Resource::ALL {
        let (kind, prefix) = (resource.kind(), resource.entity_prefix());
        let _ = writeln!(
            out,
            "\n[[sources.{source}.rules]]\ntypes = [\"{kind}.*\"]\nentity_prefix = \"{prefix}\"",
        );
        if resource == Resource::PurchaseOrders {
            let _ = writeln!(
                out,
                r#"order.sequence = {{ at = "/data/revision", start = 1, gap_wait = "{}", gap_policy = "backfill_or_skip" }}"#,
                ms(options.gap_wait),
            );
        }
    }
    let _ = write!(
        out,
        r#"
[[sources.{source}.rules]]
types = ["connection.*", "sync.*"]
entity = "/connection_id"
entity_prefix = "connection-"
order.version = {{ at = "/timestamp" }}

[sources.{source}.status]
active = ["connection.online"]
offline = ["connection.offline"]
degraded = ["connection.degraded"]
reauthorization_needed = ["connection.reauthorization_needed"]
revoked = ["connection.revoked"]

[sources.{source}.poll]
url = {url}
interval = "{interval}"
interval_min = "{interval_min}"
overlap = "{overlap}"
requests_per_second = 50

[sources.{source}.poll.status]
unauthorized = "connection.reauthorization_needed"
authorized = "connection.online"
body = '{{"type":{{type}},"connection_id":{{connection}},"timestamp":{{time}},"data":{{"reason":{{reason}}}}}}'
"#,
        url = quoted(options.api_url),
        interval = ms(options.poll_interval),
        interval_min = ms(options.poll_interval.min(Duration::from_secs(1))),
        overlap = ms(options.overlap),
    );
    for resource in Resource::ALL {
        let path = resource.path();
        let _ = write!(
            out,
            r#"
[sources.{source}.poll.resources.{name}]
path = "/api/v1/{path}"
one = "/api/v1/{path}/{{entity}}"
page_size = {{ param = "limit", value = {page_max} }}
next.cursor = {{ param = "cursor", at = "/next_cursor" }}
items = "/data"
total = "/total"
modified_after = "modified_after"
type = "{kind}.updated"
body = '{{"type":{{type}},"connection_id":{{connection}},"data":{{record}}}}'
triggers = ["sync.completed"]
"#,
            name = resource.name(),
            page_max = resource.page_max(),
            kind = resource.kind(),
        );
    }
    out
}
