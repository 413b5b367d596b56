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
