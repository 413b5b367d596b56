//! An alert's words: templates filled with what is known of a connection.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::config::{ConnectionStatus, template_parts};

use super::book::Alert;

/// What stands for the names in braces.
#[derive(Clone, Debug)]
pub struct Words {
    values: BTreeMap<&'static str, String>,
    labels: BTreeMap<String, String>,
}

impl Words {
    /// Of an alert, with the labels of its connection and the configured template of the address at which it is
    /// connected anew.
    #[must_use]
    pub fn of(alert: &Alert, labels: BTreeMap<String, String>, reconnect: Option<&str>) -> Self {
        let standing = &alert.standing;
        let escaped = |text: &str| shared::event::joined(&[text]);
        let address = labels.get("reconnect_url").cloned().or_else(|| {
            let places = BTreeMap::from([
                ("source", escaped(&standing.source)),
                ("connection", escaped(&standing.connection)),
            ]);
            reconnect.map(|template| fill(template, &places))
        });
        let name = labels.get("name").cloned().unwrap_or_else(|| standing.connection.clone());
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let values = [
            ("source", standing.source.clone()),
            ("connection", standing.connection.clone()),
            ("name", name),
            ("status", standing.status.name().to_owned()),
            ("previous", standing.previous.map_or("-", ConnectionStatus::name).to_owned()),
            ("since", standing.since.clone()),
            ("reason", or_dash(standing.reason.clone())),
            ("event", format!("{} {}", standing.event_type, standing.event_id)),
            ("reconnect", or_dash(address)),
        ];
        // Values come from outside: none may break a line, and so a subject.
        let on_one_line = |text: String| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { values: values.map(|(name, text)| (name, on_one_line(text))).into(), labels }
    }

    /// A template filled.
    #[must_use]
    pub fn fill(&self, template: &str) -> String {
        fill(template, &self.values)
    }

    /// The same for Slack, where `&`, `<` and `>` mean something.
    #[must_use]
    pub fn fill_for_slack(&self, template: &str) -> String {
        let escaped = |text: &String| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        fill(template, &self.values.iter().map(|(name, text)| (*name, escaped(text))).collect())
    }

    /// A label of the connection.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// The alert as JSON, for programs.
    #[must_use]
    pub fn json(&self, alert: &Alert) -> Value {
        let kind = match alert.kind {
            super::book::Kind::Trouble => "connection.trouble",
            super::book::Kind::Recovery => "connection.recovery",
        };
        json!({
            "id": alert.id,
            "type": kind,
            "data": alert.standing,
            "labels": self.labels,
            "reconnect_url": self.values.get("reconnect").filter(|address| *address != "-"),
        })
    }
}

fn fill(template: &str, values: &BTreeMap<&'static str, String>) -> String {
    let mut out = String::new();
    for (text, name) in template_parts(template) {
        out.push_str(text);
        out.push_str(name.and_then(|name| values.get(name)).map_or("", String::as_str));
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test: a panic is its way to fail")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::alerts::book::Kind;
    use crate::connections::Standing;
    use crate::position::Position;

    fn of_acme(labels: &[(&str, &str)], reconnect: Option<&str>) -> (Alert, Words) {
        let standing = Standing {
            source: "makini".into(),
            connection: "acme/1".into(),
            status: ConnectionStatus::Offline,
            since: "2026-01-01T00:00:00Z".into(),
            previous: Some(ConnectionStatus::Active),
            event_id: "e1".into(),
            event_type: "connection.offline".into(),
            reason: Some("<no & route>\r\nBcc: x".into()),
            time: "2026-01-01T00:00:00Z".into(),
            position: Position { offset: 0, ordinal: 0 },
        };
        let began = standing.position;
        let alert = Alert {
            id: "i".into(),
            kind: Kind::Trouble,
            standing,
            channels: BTreeSet::new(),
            at: (0, 0),
            began,
        };
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let words = Words::of(&alert, labels, reconnect);
        (alert, words)
    }

    #[test]
    fn names_in_braces_stand_for_what_is_known() {
        let (_, words) = of_acme(&[], Some("https://h/{source}/{connection}"));
        assert_eq!(
            words.fill("{name} {status} {previous} {since} {event} {reconnect} {\"json\": 1}"),
            "acme/1 offline active 2026-01-01T00:00:00Z connection.offline e1 https://h/makini/acme%2F1 {\"json\": 1}"
        );
        // A value breaks no line, and its braces mean nothing.
        assert_eq!(words.fill("{reason}"), "<no & route>  Bcc: x");
        assert_eq!(words.fill_for_slack("<{reason}>"), "<&lt;no &amp; route&gt;  Bcc: x>");
    }

    #[test]
    fn labels_name_a_connection_and_where_it_is_connected_anew() {
        let labels = [("name", "Acme {status}"), ("reconnect_url", "https://acme")];
        let (alert, words) = of_acme(&labels, Some("https://h/{source}"));
        assert_eq!(words.fill("{name}: {reconnect}"), "Acme {status}: https://acme");
        let json = words.json(&alert);
        assert_eq!(
            (&json["reconnect_url"], &json["data"]["status"]),
            (&json!("https://acme"), &json!("offline"))
        );
        let (alert, without) = of_acme(&[], None);
        assert_eq!(without.fill("{reconnect}"), "-");
        assert_eq!(without.json(&alert)["reconnect_url"], Value::Null);
    }
}
