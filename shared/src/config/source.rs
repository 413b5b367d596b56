//! `[sources.NAME]`: how one sender's webhooks are verified, and where their id, type, entity, order and
//! connection stand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use toml::Spanned;

use super::pipeline::GapPolicy;
use super::{ConfigError, Places, PollConfig, Secrets, StatusConfig};
use crate::secret::SecretRef;
use crate::selector::Selector;
use crate::units::Span;

/// One sender of webhooks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// The signature scheme: `verify.standard`, `verify.github` or `verify.hmac`.
    pub verify: VerifyConfig,
    /// The secrets that sign for the whole source. Where it has `connections`, they have their own instead.
    #[serde(default)]
    pub secrets: Vec<Spanned<SecretRef>>,
    /// The secrets as read, in the same order; none where they were not asked for ([`super::Secrets`]).
    #[serde(skip)]
    pub secret_values: Vec<Secret>,
    /// The event's id, by which repeats are known. Default: the scheme's own; `hmac` has none.
    pub id: Option<Selector>,
    /// The event's type. Default: the scheme's own, else every event is of type `event`.
    #[serde(rename = "type")]
    pub kind: Option<Selector>,
    /// The entity that events are ordered by. Without it events have no order.
    pub entity: Option<Selector>,
    /// Put before the entity's id, so that an order 7 and an invoice 7 are two entities.
    #[serde(default)]
    pub entity_prefix: String,
    /// Which customer's connection an event belongs to: `path`, a header or a pointer. Without it: none.
    pub connection: Option<Selector>,
    /// The connections, by id, with the secrets that sign for each.
    #[serde(default)]
    pub connections: BTreeMap<String, ConnectionConfig>,
    /// Further connections: a file, or a directory of files that end in `.toml`, with a table for each, read again
    /// when it changes: [`super::Registry`].
    pub registry: Option<PathBuf>,
    /// How the provider's API is polled, for what webhooks missed.
    pub poll: Option<PollConfig>,
    /// Which events tell how a connection is.
    pub status: Option<StatusConfig>,
    /// How events of one entity are ordered. Default: as they arrive.
    #[serde(default)]
    pub order: OrderConfig,
    /// Exceptions by event type; the first that matches counts.
    #[serde(default)]
    pub rules: Vec<RuleConfig>,
    /// A body that is a JSON array: `refuse` (the default) or `split` into one event an element.
    #[serde(default)]
    pub array_body: ArrayBody,
    /// How long ingest may take to answer; after it 503. Below the sender's own patience.
    #[serde(default = "default_deadline")]
    pub deadline: Span,
}

const fn default_deadline() -> Span {
    Span::secs(5)
}

/// The signature scheme of a source.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyConfig {
    /// Standard Webhooks, also sent by Svix.
    Standard(SimpleScheme),
    /// GitHub.
    Github(SimpleScheme),
    /// Any HMAC over the body or a template of it.
    Hmac(HmacScheme),
}

/// A scheme whose form is fixed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimpleScheme {
    /// For schemes that sign a timestamp: how far it may be from now, either way. Default: 5 minutes.
    pub tolerance: Option<Span>,
}

/// An HMAC signature that the configuration describes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HmacScheme {
    /// The header that carries the signature.
    pub header: String,
    /// The hash function. Default: `sha256`.
    #[serde(default)]
    pub hash: Hash,
    /// How the signature is written. Default: `hex`.
    #[serde(default)]
    pub encoding: Encoding,
    /// Stands before each signature in the header, such as `sha256=`.
    #[serde(default)]
    pub prefix: String,
    /// Separates several signatures in the header; any of them may match. Without it there is one.
    pub separator: Option<String>,
    /// What is signed: text with `{body}`, `{id}`, `{timestamp}` and `{header:NAME}`. Default: `{body}`.
    #[serde(default = "default_template")]
    pub template: Spanned<String>,
    /// The header with the id that `{id}` stands for.
    pub id_header: Option<String>,
    /// The header with the Unix time in seconds that `{timestamp}` stands for.
    pub timestamp_header: Option<String>,
    /// How far the timestamp may be from now, either way. Default: 5 minutes where there is a timestamp.
    pub tolerance: Option<Span>,
}

fn default_template() -> Spanned<String> {
    Spanned::new(0..0, "{body}".to_owned())
}

/// Hash functions of HMAC signatures.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Hash {
    /// SHA-1, for old senders.
    Sha1,
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

/// How a signature is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Hexadecimal, either case.
    #[default]
    Hex,
    /// Base64 with `+` and `/`, padded.
    Base64,
    /// Base64 with `-` and `_`, padded or not.
    Base64url,
}

/// One customer's link at the source.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionConfig {
    /// The secrets that sign for this connection alone; several while they are being rotated. None where the
    /// source's sign for all.
    #[serde(default)]
    pub secrets: Vec<Spanned<SecretRef>>,
    /// What the provider's API takes from whom polls for this connection.
    pub token: Option<Spanned<SecretRef>>,
    /// The token as read; none where it was not asked for.
    #[serde(skip)]
    pub token_value: Option<Secret>,
    /// What people call it by, such as the customer's name and address: shown, and put into alerts.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The secrets as read, in the same order; none where they were not asked for ([`super::Secrets`]).
    #[serde(skip)]
    pub secret_values: Vec<Secret>,
}

/// A secret as read, and the name under which logs and records may speak of it.
#[derive(Clone, Debug)]
pub struct Secret {
    /// The reference, such as `env:GITHUB_SECRET`. Not secret.
    pub key_id: String,
    /// The secret itself.
    pub value: SecretString,
}

/// What to do with a body that is a JSON array.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ArrayBody {
    /// Answer 422; nothing is appended.
    #[default]
    Refuse,
    /// Append one event an element; 200 once all are in the log.
    Split,
}

/// How events of one entity are ordered.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderConfig {
    /// As they arrive.
    #[default]
    Arrival,
    /// By a contiguous number: the next applies, later ones are held until it comes.
    Sequence(SequenceOrder),
    /// By a version that only rises: the newest wins, older ones are stale.
    Version(VersionOrder),
}

/// Ordering by a contiguous number.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequenceOrder {
    /// Where the number stands.
    pub at: Selector,
    /// An entity's first number. Without it the smallest that arrives within `gap_wait` is the first.
    pub start: Option<u64>,
    /// How long to wait for a number that is missing. Default: 30 s.
    #[serde(default = "default_gap_wait")]
    pub gap_wait: Span,
    /// What happens then. Default: `skip`.
    #[serde(default)]
    pub gap_policy: GapPolicy,
}

const fn default_gap_wait() -> Span {
    Span::secs(30)
}

/// Ordering by a rising version.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionOrder {
    /// Where the version stands: an integer, or an RFC 3339 time.
    pub at: Selector,
}

/// An exception for some event types of a source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Event types, exact or with a `*` at the end.
    pub types: Vec<String>,
    /// These events are logged, counted as ignored, and not applied.
    #[serde(default)]
    pub ignore: bool,
    /// Instead of the source's `entity`.
    pub entity: Option<Selector>,
    /// Instead of the source's `entity_prefix`.
    pub entity_prefix: Option<String>,
    /// Instead of the source's `order`.
    pub order: Option<OrderConfig>,
}

/// Whether an event type matches a pattern: exact, or a prefix and `*`.
#[must_use]
pub fn type_matches(pattern: &str, kind: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == kind, |prefix| kind.starts_with(prefix))
}

impl SourceConfig {
    /// The rule for an event type, if one matches.
    #[must_use]
    pub fn rule(&self, kind: &str) -> Option<&RuleConfig> {
        self.rules.iter().find(|rule| rule.types.iter().any(|pattern| type_matches(pattern, kind)))
    }

    /// Whether some types of events are ordered by a number whose gaps the poller is asked to fill.
    #[must_use]
    pub fn asks_for_missing(&self) -> bool {
        let orders = self.rules.iter().filter_map(|rule| rule.order.as_ref()).chain([&self.order]);
        orders.into_iter().any(|order| match order {
            OrderConfig::Sequence(sequence) => sequence.gap_policy.asks(),
            OrderConfig::Arrival | OrderConfig::Version(_) => false,
        })
    }

    /// Whether the provider is asked for single records.
    fn can_ask_for_one(&self) -> bool {
        self.poll.as_ref().is_some_and(|poll| poll.resources.values().any(|resource| resource.one.is_some()))
    }

    pub(super) fn resolve(
        &mut self,
        at: &Places<'_>,
        name: &str,
        secrets: Secrets<'_>,
    ) -> Result<(), ConfigError> {
        let key = format!("sources.{name}");
        if matches!(secrets, Secrets::Sources | Secrets::All) {
            self.secret_values = read_all(at, &format!("{key}.secrets"), &self.secrets)?;
        }
        for (id, connection) in &mut self.connections {
            let key = format!("{key}.connections.{id}");
            check_connection_id(at, &key, id)?;
            connection.read_secrets(at, &key, secrets)?;
            if connection.secrets.is_empty() == self.secrets.is_empty() {
                let message = if self.secrets.is_empty() {
                    "needs at least one secret"
                } else {
                    "must not be there beside the source's own `secrets`, which sign for all its connections"
                };
                return Err(at.error(None, &format!("{key}.secrets"), message));
            }
        }
        if self.connections.is_empty() && self.registry.is_none() && self.secrets.is_empty() {
            let message = "needs either `secrets`, which sign for the whole source, or \
                           [sources.NAME.connections.ID] with each connection's own `secrets`";
            return Err(at.error(None, &key, message));
        }
        if (!self.connections.is_empty() || self.registry.is_some()) && self.connection.is_none() {
            let message = "`connections` needs `connection`: \"path\", \"header:NAME\" or a pointer";
            return Err(at.error(None, &key, message));
        }
        let selectors = [("id", &self.id), ("type", &self.kind), ("entity", &self.entity)];
        for (field, selector) in selectors {
            if *selector == Some(Selector::Path) {
                let message = "\"path\" is only for `connection`";
                return Err(at.error(None, &format!("{key}.{field}"), message));
            }
        }
        if self.connection == Some(Selector::BodySha256) {
            let message = "a connection is \"path\", \"header:NAME\" or a pointer";
            return Err(at.error(None, &format!("{key}.connection"), message));
        }
        for rule in &self.rules {
            if rule.types.is_empty() {
                return Err(at.error(None, &format!("{key}.rules"), "a rule needs at least one of `types`"));
            }
            self.check_order(at, &key, rule.order.as_ref(), rule.entity.as_ref().or(self.entity.as_ref()))?;
        }
        self.check_order(at, &key, Some(&self.order), self.entity.as_ref())?;
        if let Some(poll) = &self.poll {
            poll.check(at, name, self)?;
        }
        if let Some(status) = &self.status {
            status.check(at, name, self)?;
        }
        if let VerifyConfig::Hmac(scheme) = &self.verify {
            scheme.check(at, &key)?;
            if self.id.is_none() {
                let message = "the hmac scheme has no id of its own: set `id` to a pointer, \"header:NAME\" or, \
                               where the sender gives none, \"body-sha256\"";
                return Err(at.error(None, &key, message));
            }
        }
        Ok(())
    }

    #[allow(clippy::unused_self, reason = "a method beside resolve, which it serves")]
    fn check_order(
        &self,
        at: &Places<'_>,
        key: &str,
        order: Option<&OrderConfig>,
        entity: Option<&Selector>,
    ) -> Result<(), ConfigError> {
        match order {
            Some(OrderConfig::Sequence(_) | OrderConfig::Version(_)) if entity.is_none() => {
                Err(at.error(None, &format!("{key}.order"), "needs `entity`: order is kept per entity"))
            }
            Some(OrderConfig::Sequence(order)) if order.start.is_some_and(|s| i64::try_from(s).is_err()) => {
                Err(at.error(None, &format!("{key}.order.sequence.start"), "must be below 2^63"))
            }
            Some(OrderConfig::Sequence(order)) if order.gap_policy.asks() && !self.can_ask_for_one() => {
                let message = format!(
                    "asks the provider for what is missing, so [{key}.poll.resources.RESOURCE] must have `one`, the \
                     path of one record; or choose \"skip\" or \"park\""
                );
                Err(at.error(None, &format!("{key}.order.sequence.gap_policy"), &message))
            }
            _ => Ok(()),
        }
    }
}

impl HmacScheme {
    fn check(&self, at: &Places<'_>, key: &str) -> Result<(), ConfigError> {
        let template = self.template.get_ref();
        let fail = |message: &str| {
            Err(at.error(Some(self.template.span()), &format!("{key}.verify.hmac.template"), message))
        };
        if !template.contains("{body}") {
            return fail("must contain {body}: a signature that leaves the body out protects nothing");
        }
        if template.contains("{id}") && self.id_header.is_none() {
            return fail("has {id}, so `id_header` must name the header that it stands in");
        }
        if template.contains("{timestamp}") != self.timestamp_header.is_some() {
            return fail("{timestamp} and `timestamp_header` go together");
        }
        let mut rest = template.as_str();
        while let Some((_, tail)) = rest.split_once('{') {
            let Some((name, tail)) = tail.split_once('}') else {
                return fail("has a `{` without its `}`");
            };
            if !matches!(name, "body" | "id" | "timestamp") && !name.starts_with("header:") {
                return fail("may hold {body}, {id}, {timestamp} and {header:NAME} only");
            }
            rest = tail;
        }
        Ok(())
    }
}

/// Ids stand in URLs, and in the log.
pub(super) fn check_connection_id(at: &Places<'_>, key: &str, id: &str) -> Result<(), ConfigError> {
    match id.len() {
        1..=256 => Ok(()),
        _ => Err(at.error(None, key, "a connection's id is 1 to 256 bytes long")),
    }
}

pub(super) fn read_all(
    at: &Places<'_>,
    key: &str,
    refs: &[Spanned<SecretRef>],
) -> Result<Vec<Secret>, ConfigError> {
    refs.iter()
        .map(|r| match r.get_ref().read() {
            Ok(value) => Ok(Secret { key_id: r.get_ref().to_string(), value }),
            Err(e) => Err(at.error(Some(r.span()), key, &e.to_string())),
        })
        .collect()
}
