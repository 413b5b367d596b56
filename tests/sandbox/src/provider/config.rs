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
                humantime::format_duration(options.gap_wait),
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
timeout = "2s"
requests_per_second = 50

[sources.{source}.poll.status]
unauthorized = "connection.reauthorization_needed"
authorized = "connection.online"
body = '{{"type":{{type}},"connection_id":{{connection}},"timestamp":{{time}},"data":{{"reason":{{reason}}}}}}'
"#,
        url = quoted(options.api_url),
        interval = humantime::format_duration(options.poll_interval),
        interval_min = humantime::format_duration(options.poll_interval.min(Duration::from_secs(1))),
        overlap = humantime::format_duration(options.overlap),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_has_a_rule_and_is_polled_as_the_api_has_it() {
        let text = config_toml(&ConfigOptions {
            source: "erp",
            api_url: "http://127.0.0.1:9000",
            registry: Path::new("/tmp/a \"quoted\" place"),
            gap_wait: Duration::from_millis(1_500),
            poll_interval: Duration::from_millis(500),
            overlap: Duration::from_secs(30),
        });
        let config: toml::Value = toml::from_str(&text).unwrap();
        let source = &config["sources"]["erp"];
        assert_eq!(source["registry"].as_str(), Some("/tmp/a \"quoted\" place"));
        let rules = source["rules"].as_array().unwrap();
        assert_eq!(rules[0]["order"]["sequence"]["gap_wait"].as_str(), Some("1s 500ms"));
        let poll = &source["poll"];
        assert_eq!(
            (poll["interval"].as_str(), poll["interval_min"].as_str()),
            (Some("500ms"), Some("500ms"))
        );
        for resource in Resource::ALL {
            let list = &poll["resources"][resource.name()];
            assert_eq!(list["path"].as_str().unwrap(), format!("/api/v1/{}", resource.path()));
            assert_eq!(list["page_size"]["value"].as_integer().unwrap(), resource.page_max() as i64);
            let kind = list["type"].as_str().unwrap().replace("updated", "*");
            let rule = rules.iter().find(|rule| rule["types"][0].as_str() == Some(&kind)).unwrap();
            assert_eq!(rule["entity_prefix"].as_str(), Some(resource.entity_prefix()));
        }
    }
}
