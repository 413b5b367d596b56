//! `[sources.NAME.poll]`: how the provider's API is asked for what webhooks missed.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, Places, SourceConfig};
use crate::selector::Selector;
use crate::units::{Size, Span};

/// The API of one source's provider, and its resources.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollConfig {
    /// What every path of the API is under, such as `https://api.example.com`.
    pub url: Spanned<String>,
    /// The header that a connection's token goes into. Default: `authorization`.
    #[serde(default = "default_header")]
    pub token_header: String,
    /// The header's value, with `{token}`. Default: `Bearer {token}`.
    #[serde(default = "default_authorization")]
    pub token_format: String,
    /// How long after a poll that found nothing new the next one comes. Default: 5 minutes.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// How long after a poll that found something; doubled with each that finds nothing. Default: 30 s.
    #[serde(default = "default_interval_min")]
    pub interval_min: Span,
    /// How much of the time before the last list is asked for again: clocks differ, and providers write late.
    /// Default: 5 minutes.
    #[serde(default = "default_overlap")]
    pub overlap: Span,
    /// How long one request may take. Default: 30 s.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// The largest answer that is taken. Default: 32 MiB.
    #[serde(default = "default_response_limit")]
    pub response_limit: Size,
    /// Requests a second for one connection; 1 to 1000. Default: 5.
    #[serde(default = "default_rate")]
    pub requests_per_second: u32,
    /// Connections that one instance polls at once; 1 to 1000. Default: 16.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// The lists, by name.
    pub resources: BTreeMap<String, ResourceConfig>,
    /// What is appended when a token is refused, and when one works again. Without it: nothing but a metric.
    pub status: Option<PollStatusConfig>,
}

fn default_header() -> String {
    "authorization".to_owned()
}

fn default_authorization() -> String {
    "Bearer {token}".to_owned()
}

const fn default_interval() -> Span {
    Span::secs(300)
}

const fn default_interval_min() -> Span {
    Span::secs(30)
}

const fn default_overlap() -> Span {
    Span::secs(300)
}

const fn default_timeout() -> Span {
    Span::secs(30)
}

const fn default_response_limit() -> Size {
    Size::kib(32 * 1024)
}

const fn default_rate() -> u32 {
    5
}

const fn default_concurrency() -> u32 {
    16
}

/// One list of the API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceConfig {
    /// Its path under the API's `url`.
    pub path: String,
    /// The path of one record, with `{entity}`: its id, without the source's or rule's `entity_prefix`. For gaps whose
    /// policy is to fill them.
    pub one: Option<String>,
    /// Parameters of every request.
    #[serde(default)]
    pub query: BTreeMap<String, String>,
    /// How many records are asked for at once: as many as the provider takes.
    pub page_size: Option<PageSize>,
    /// How the next page is asked for. Without it the list has one page.
    pub next: Option<NextPage>,
    /// Where the records stand in an answer: a pointer to an array. Default: the answer is the array.
    pub items: Option<Selector>,
    /// Where one record stands in the answer of `one`. Default: the answer is the record.
    pub item: Option<Selector>,
    /// Where the number of all records stands, for those who watch.
    pub total: Option<Selector>,
    /// The parameter that asks for what was modified after a time (RFC 3339). Without it each poll reads all.
    pub modified_after: Option<String>,
    /// The body of the event that a record becomes: JSON with `{record}`, `{connection}` and `{type}`, by which the
    /// source's selectors find type, entity and order as in a webhook.
    pub body: Spanned<String>,
    /// The type, where `body` has `{type}`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// How deletions that no webhook told are found. Without it: not at all.
    pub sweep: Option<SweepConfig>,
    /// Types of webhooks after which the list is asked for at once, such as that of a finished synchronisation.
    #[serde(default)]
    pub triggers: Vec<String>,
}

/// Finding what a list does not have any more. A list that is read whole, without an error, is compared with the one
/// before; a record that is missing is asked for by itself, and deleted if there is none.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// How often the list is read whole.
    pub interval: Span,
    /// The type of the event that a deletion becomes.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its body: JSON with `{type}`, `{connection}`, `{entity}` (without prefix) and `{time}`, when it was found.
    pub body: Spanned<String>,
}

/// The size of a page.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageSize {
    /// The parameter.
    pub param: String,
    /// Records; 1 to 10,000.
    pub value: u32,
}

/// How the next page is asked for.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NextPage {
    /// By what the answer's body says.
    Cursor {
        /// The parameter.
        param: String,
        /// Where the cursor stands in an answer; the last page has none, null or "".
        at: Selector,
    },
    /// By the address in the header `Link: <…>; rel="next"` (RFC 8288), of the same host.
    Link {},
    /// By number, until a page is empty or has fewer records than its size.
    Page {
        /// The parameter.
        param: String,
        /// The first page's number.
        #[serde(default = "default_first_page")]
        first: u32,
    },
}

const fn default_first_page() -> u32 {
    1
}

/// The events by which a poller tells how a connection is: like the provider's own, so that both are one entity's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollStatusConfig {
    /// The type, once the provider refuses the token.
    pub unauthorized: String,
    /// The type, once it takes the token again.
    pub authorized: String,
    /// The body: JSON with `{type}`, `{connection}`, `{time}` and `{reason}`.
    pub body: Spanned<String>,
}

impl PollConfig {
    pub(super) fn check(
        &self,
        at: &Places<'_>,
        source: &str,
        config: &SourceConfig,
    ) -> Result<(), ConfigError> {
        let key = format!("sources.{source}.poll");
        let fail = |field: &str, message: &str| Err(at.error(None, &format!("{key}.{field}"), message));
        if config.connection.is_none() {
            let message = "needs `connection`: each connection is polled with its own token";
            return Err(at.error(None, &key, message));
        }
        let url = self.url.get_ref();
        if !(url.starts_with("https://") || url.starts_with("http://")) || url.ends_with('/') {
            let message = "is an address such as \"https://api.example.com\", without a slash at its end";
            return Err(at.error(Some(self.url.span()), &format!("{key}.url"), message));
        }
        if self.token_format.matches("{token}").count() != 1 {
            return fail("token_format", "must contain {token} once");
        }
        if !(1..=1000).contains(&self.requests_per_second) {
            return fail("requests_per_second", "must be 1 to 1000");
        }
        if !(1..=1000).contains(&self.concurrency) {
            return fail("concurrency", "must be 1 to 1000");
        }
        if self.interval_min.0.is_zero() || self.interval_min > self.interval {
            return fail("interval_min", "must be above 0 and at most `interval`");
        }
        if self.resources.is_empty() {
            return fail("resources", "needs at least one [sources.NAME.poll.resources.NAME]");
        }
        for (name, resource) in &self.resources {
            resource.check(at, &format!("{key}.resources.{name}"))?;
        }
        if let Some(status) = &self.status {
            let names = ["type", "connection", "time", "reason"];
            check_template(at, &format!("{key}.status.body"), &status.body, &names)?;
        }
        Ok(())
    }
}

impl ResourceConfig {
    fn check(&self, at: &Places<'_>, key: &str) -> Result<(), ConfigError> {
        let fail = |field: &str, message: &str| Err(at.error(None, &format!("{key}.{field}"), message));
        if !self.path.starts_with('/') {
            return fail("path", "starts with a slash");
        }
        if self.one.as_ref().is_some_and(|one| !one.starts_with('/') || !one.contains("{entity}")) {
            return fail("one", "starts with a slash and contains {entity}");
        }
        if self.one.is_some() && self.kind.is_empty() {
            return fail("one", "needs `type`, by which the entity's prefix is known");
        }
        if self.page_size.as_ref().is_some_and(|size| !(1..=10_000).contains(&size.value)) {
            return fail("page_size", "must be 1 to 10000 records");
        }
        let cursor = match &self.next {
            Some(NextPage::Cursor { at, .. }) => Some(at),
            Some(NextPage::Link {} | NextPage::Page { .. }) | None => None,
        };
        let selectors = [
            ("items", self.items.as_ref()),
            ("item", self.item.as_ref()),
            ("total", self.total.as_ref()),
            ("next.cursor.at", cursor),
        ];
        for (field, selector) in selectors {
            if selector.is_some_and(|selector| !matches!(selector, Selector::Pointer(_))) {
                return fail(field, "is a JSON pointer into the answer, such as \"/data\"");
            }
        }
        if let Some(sweep) = &self.sweep {
            if self.one.is_none() {
                return fail("sweep", "needs `one`: what a list does not have is asked for by itself");
            }
            let names = ["type", "connection", "entity", "time"];
            check_template(at, &format!("{key}.sweep.body"), &sweep.body, &names)?;
        }
        check_template(at, &format!("{key}.body"), &self.body, &["record", "connection", "type"])?;
        if !self.body.get_ref().contains("{record}") {
            return fail("body", "must contain {record}");
        }
        Ok(())
    }
}

/// The parts of a template: text, and the names of what stands in braces. Braces that hold no lower-case word are text.
#[must_use]
pub fn template_parts(template: &str) -> Vec<(&str, Option<&str>)> {
    let mut parts = Vec::new();
    let (mut rest, mut from) = (template, 0);
    while let Some(open) = rest.get(from..).and_then(|text| text.find('{')).map(|at| from + at) {
        let name = rest.get(open + 1..).and_then(|text| text.split_once('}')).map(|(name, _)| name);
        match name.filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase())) {
            Some(name) => {
                parts.push((rest.get(..open).unwrap_or_default(), Some(name)));
                rest = rest.get(open + name.len() + 2..).unwrap_or_default();
                from = 0;
            }
            None => from = open + 1,
        }
    }
    parts.push((rest, None));
    parts
}

/// A template must be JSON once each name is, and know no others.
fn check_template(
    at: &Places<'_>,
    key: &str,
    template: &Spanned<String>,
    names: &[&str],
) -> Result<(), ConfigError> {
    let mut filled = String::new();
    for (text, name) in template_parts(template.get_ref()) {
        filled.push_str(text);
        if let Some(name) = name {
            if !names.contains(&name) {
                let known = names.iter().map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join(", ");
                let message = format!("has {{{name}}}, but may hold {known} only");
                return Err(at.error(Some(template.span()), key, &message));
            }
            filled.push_str("null");
        }
    }
    serde_json::from_str::<serde::de::IgnoredAny>(&filled).map_err(|error| {
        let message = format!("is not JSON, with null for what stands in braces: {error}");
        at.error(Some(template.span()), key, &message)
    })?;
    Ok(())
}
