//! `[alerts]`: which changes of connections people are told of, how, and in which words.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use secrecy::SecretString;
use serde::Deserialize;
use toml::Spanned;

use super::poll::template_parts;
use super::{ConfigError, ConnectionStatus, HttpSinkConfig, Places};
use crate::secret::SecretRef;
use crate::units::Span;

/// What stands in braces in templates.
pub const TEMPLATE_NAMES: [&str; 9] =
    ["source", "connection", "name", "status", "previous", "since", "reason", "event", "reconnect"];

/// The longest that a status may have to stand before it is told.
const AFTER_MAX: Span = Span::secs(3600);
/// The longest that a channel is tried for one alert.
const RETRY_FOR_MAX: Span = Span::secs(24 * 3600);

/// Alerts on connections.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertsConfig {
    /// The topic with what was told, by which a restart repeats nothing. Created if it is missing. The consumer group
    /// has the same name.
    #[serde(default = "default_topic")]
    pub topic: String,
    /// How long a status must stand before it is told, so that one that passes soon is not; at most 1 h.
    #[serde(default = "default_after")]
    pub after: Span,
    /// The statuses that are told. Default: `reauthorization_needed`, `offline`, `revoked`.
    #[serde(default = "default_statuses")]
    pub statuses: Vec<ConnectionStatus>,
    /// Whether it is told that a connection is active again, where trouble was told.
    #[serde(default = "default_recovery")]
    pub recovery: bool,
    /// How long a channel that fails is tried for one alert; at most 24 h. Then it is counted, logged and passed over.
    #[serde(default = "default_retry_for")]
    pub retry_for: Span,
    /// Where a customer connects anew, with `{source}` and `{connection}`. A connection's label `reconnect_url` counts
    /// first.
    pub reconnect_url: Option<Spanned<String>>,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[serde(default = "default_admin")]
    pub admin_listen: SocketAddr,
    /// Who is told, by name.
    pub channels: BTreeMap<String, ChannelConfig>,
}

fn default_topic() -> String {
    "hookline.alerts".to_owned()
}

const fn default_after() -> Span {
    Span::secs(0)
}

fn default_statuses() -> Vec<ConnectionStatus> {
    vec![ConnectionStatus::ReauthorizationNeeded, ConnectionStatus::Offline, ConnectionStatus::Revoked]
}

const fn default_recovery() -> bool {
    true
}

const fn default_retry_for() -> Span {
    Span::secs(600)
}

fn default_admin() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9466))
}

/// One way to tell people.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelConfig {
    /// An incoming webhook of Slack.
    Slack(SlackChannelConfig),
    /// A service that takes each alert by POST, as JSON, signed as Standard Webhooks say.
    Http(HttpSinkConfig),
    /// E-mail.
    Email(Box<EmailChannelConfig>),
}

/// An incoming webhook of Slack.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlackChannelConfig {
    /// Its URL, by reference since whoever has it can post.
    pub url: Spanned<SecretRef>,
    /// The URL as read; none where it was not asked for ([`super::Secrets`]).
    #[serde(skip)]
    pub url_value: Option<SecretString>,
    /// What is said of trouble.
    #[serde(default = "default_slack")]
    pub text: Spanned<String>,
    /// What is said of a recovery.
    #[serde(default = "default_slack_recovery")]
    pub recovery_text: Spanned<String>,
}

fn template(text: &str) -> Spanned<String> {
    Spanned::new(0..0, text.to_owned())
}

fn default_slack() -> Spanned<String> {
    template("Connection {name} ({source}/{connection}) is {status} since {since}: {reason}")
}

fn default_slack_recovery() -> Spanned<String> {
    template("Connection {name} ({source}/{connection}) is {status} again since {since}; it was {previous}")
}

/// Messages by SMTP.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailChannelConfig {
    /// The server's name.
    pub host: String,
    /// Its port. Default: 587, with `tls = "tls"` 465, with `tls = "none"` 25.
    pub port: Option<u16>,
    /// How the connection is protected. Default: `starttls`, without which nothing is sent.
    #[serde(default)]
    pub tls: SmtpTls,
    /// Who logs in. Without it nobody does.
    pub user: Option<String>,
    /// The password, beside `user`.
    pub password: Option<Spanned<SecretRef>>,
    /// The password as read.
    #[serde(skip)]
    pub password_value: Option<SecretString>,
    /// The sender, such as `Hookline <alerts@example.com>`.
    pub from: String,
    /// Who gets each alert. Either this or `to_label`.
    #[serde(default)]
    pub to: Vec<String>,
    /// The connection's label that holds the customer's address, such as `email`; connections without it are passed
    /// over. The messages are then written for customers.
    pub to_label: Option<String>,
    /// How long one message may take. Default: 30 s.
    #[serde(default = "default_email_timeout")]
    pub timeout: Span,
    /// The subject of a message about trouble. Defaults of the four: in `alerts.rs`, other ones with `to_label`.
    pub subject: Option<Spanned<String>>,
    /// Its text.
    pub text: Option<Spanned<String>>,
    /// The subject of a message about a recovery.
    pub recovery_subject: Option<Spanned<String>>,
    /// Its text.
    pub recovery_text: Option<Spanned<String>>,
}

const fn default_email_timeout() -> Span {
    Span::secs(30)
}

/// How a connection to an SMTP server is protected.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SmtpTls {
    /// By STARTTLS, before anything else is said.
    #[default]
    Starttls,
    /// From the first byte on.
    Tls,
    /// Not at all: for a server on the same machine.
    None,
}

/// A message's subject and text.
pub type Words<'a> = (&'a str, &'a str);

const OPERATORS: Words<'static> = (
    "[{status}] connection {name} of {source}",
    "Connection {name} ({source}/{connection}) is {status} since {since}.\n\nBefore: {previous}\nReason: {reason}\n\
     Event: {event}\nTo connect anew: {reconnect}\n",
);
const OPERATORS_RECOVERY: Words<'static> = (
    "[{status}] connection {name} of {source} works again",
    "Connection {name} ({source}/{connection}) is {status} again since {since}.\n\nBefore: {previous}\n",
);
const CUSTOMERS: Words<'static> = (
    "Please reconnect {name}",
    "Hello,\n\nthe connection {name} does not work since {since}, so that no data comes in.\n\nPlease connect it anew:\n\
     {reconnect}\n\nNothing is lost: what was missed is fetched afterwards.\n",
);
const CUSTOMERS_RECOVERY: Words<'static> = (
    "{name} works again",
    "Hello,\n\nthe connection {name} works again since {since}. There is nothing left to do.\n",
);

impl EmailChannelConfig {
    /// The templates of subject and text.
    #[must_use]
    pub fn words(&self, is_recovery: bool) -> Words<'_> {
        let (subject, text) = if is_recovery {
            (&self.recovery_subject, &self.recovery_text)
        } else {
            (&self.subject, &self.text)
        };
        let default = match (self.to_label.is_some(), is_recovery) {
            (false, false) => OPERATORS,
            (false, true) => OPERATORS_RECOVERY,
            (true, false) => CUSTOMERS,
            (true, true) => CUSTOMERS_RECOVERY,
        };
        (
            subject.as_ref().map_or(default.0, |given| given.get_ref()),
            text.as_ref().map_or(default.1, |given| given.get_ref()),
        )
    }

    fn check(&self, at: &Places<'_>, key: &str) -> Result<(), ConfigError> {
        let fail = |field: &str, message: &str| Err(at.error(None, &format!("{key}.{field}"), message));
        if self.to.is_empty() == self.to_label.is_none() {
            return fail(
                "to",
                "needs either `to`, addresses, or `to_label`, the connections' label with theirs",
            );
        }
        if self.user.is_some() != self.password.is_some() {
            return fail("user", "`user` and `password` go together");
        }
        if self.user.is_some() && self.tls == SmtpTls::None {
            return fail("tls", "\"none\" would send the password in the clear");
        }
        let templates = [
            ("subject", &self.subject),
            ("text", &self.text),
            ("recovery_subject", &self.recovery_subject),
            ("recovery_text", &self.recovery_text),
        ];
        for (field, template) in templates {
            if let Some(template) = template {
                check_template(at, &format!("{key}.{field}"), template, &TEMPLATE_NAMES)?;
            }
        }
        Ok(())
    }
}

impl AlertsConfig {
    /// Checks the settings and, `with_secrets`, reads what they refer to.
    pub(super) fn resolve(&mut self, at: &Places<'_>, with_secrets: bool) -> Result<(), ConfigError> {
        let fail = |field: &str, message: &str| Err(at.error(None, &format!("alerts.{field}"), message));
        if self.after > AFTER_MAX {
            return fail("after", "must be at most \"1h\"");
        }
        if self.retry_for < Span::secs(1) || self.retry_for > RETRY_FOR_MAX {
            return fail("retry_for", "must be \"1s\" to \"24h\"");
        }
        if self.statuses.is_empty() || self.statuses.contains(&ConnectionStatus::Active) {
            return fail("statuses", "needs at least one status, and not `active`: that is the recovery");
        }
        if self.channels.is_empty() {
            return fail("channels", "needs at least one [alerts.channels.NAME]");
        }
        if let Some(url) = &self.reconnect_url {
            check_template(at, "alerts.reconnect_url", url, &["source", "connection"])?;
        }
        for (name, channel) in &mut self.channels {
            super::check_name(at, "alerts.channels", name)?;
            channel.resolve(at, &format!("alerts.channels.{name}"), with_secrets)?;
        }
        Ok(())
    }
}

impl ChannelConfig {
    fn resolve(&mut self, at: &Places<'_>, key: &str, with_secrets: bool) -> Result<(), ConfigError> {
        let read = |reference: &Spanned<SecretRef>, name: &str| {
            let value = reference.get_ref().read();
            value.map_err(|e| at.error(Some(reference.span()), &format!("{key}.{name}"), &e.to_string()))
        };
        match self {
            Self::Slack(slack) => {
                for (field, template) in [("text", &slack.text), ("recovery_text", &slack.recovery_text)] {
                    check_template(at, &format!("{key}.slack.{field}"), template, &TEMPLATE_NAMES)?;
                }
                if with_secrets {
                    slack.url_value = Some(read(&slack.url, "slack.url")?);
                }
            }
            Self::Http(http) if with_secrets => {
                http.url_value = Some(read(&http.url, "http.url")?);
                let secrets = http.secrets.iter().map(|secret| read(secret, "http.secrets"));
                http.secret_values = secrets.collect::<Result<_, _>>()?;
            }
            Self::Http(_) => {}
            Self::Email(email) => {
                email.check(at, &format!("{key}.email"))?;
                if with_secrets && let Some(password) = &email.password {
                    email.password_value = Some(read(password, "email.password")?);
                }
            }
        }
        Ok(())
    }
}

/// A template knows no names but these.
fn check_template(
    at: &Places<'_>,
    key: &str,
    template: &Spanned<String>,
    names: &[&str],
) -> Result<(), ConfigError> {
    let parts = template_parts(template.get_ref());
    let unknown = parts.into_iter().filter_map(|(_, name)| name).find(|name| !names.contains(name));
    let Some(unknown) = unknown else { return Ok(()) };
    let known = names.iter().map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join(", ");
    let message = format!("has {{{unknown}}}, but may hold {known} only");
    Err(at.error(Some(template.span()), key, &message))
}
