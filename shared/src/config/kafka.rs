//! `[kafka]` and `[log]`: the cluster, and the topic that holds the events.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, Places};
use crate::secret::SecretRef;
use crate::units::Span;

/// How to reach Kafka.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port`, several separated by commas.
    pub bootstrap_servers: String,
    /// `plaintext` (the default), `ssl`, `sasl_plaintext` or `sasl_ssl`.
    #[serde(default)]
    pub security_protocol: SecurityProtocol,
    /// Certificates for `ssl` and `sasl_ssl`.
    pub tls: Option<TlsClientConfig>,
    /// Credentials for `sasl_plaintext` and `sasl_ssl`.
    pub sasl: Option<SaslConfig>,
    /// Further librdkafka properties, by their own names. Those that the guarantees rest on are refused.
    #[serde(default)]
    pub properties: BTreeMap<String, Spanned<String>>,
    /// What kind of broker this is. Not in the file: the quickstart sets it.
    #[serde(skip)]
    pub broker: Broker,
}

/// The kind of broker behind `bootstrap_servers`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Broker {
    /// Apache Kafka, or what speaks its protocol in full.
    #[default]
    Kafka,
    /// librdkafka's in-process broker, for the quickstart. It keeps nothing on disk, has no CreateTopics, no
    /// DescribeConfigs and no log-append time, holds about 5 MiB a partition, and does not fence.
    Embedded,
}

/// How the connection is protected.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SecurityProtocol {
    /// Neither encrypted nor authenticated.
    #[default]
    Plaintext,
    /// TLS.
    Ssl,
    /// SASL without TLS.
    SaslPlaintext,
    /// SASL over TLS.
    SaslSsl,
}

/// Certificates of the Kafka connection.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsClientConfig {
    /// PEM file of the authorities to trust; without it, the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of the client's certificate, for mutual TLS.
    pub certificate: Option<PathBuf>,
    /// PEM file of the client's private key.
    pub key: Option<PathBuf>,
}

/// Credentials of the Kafka connection.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaslConfig {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: SaslMechanism,
    /// The user's name.
    pub username: String,
    /// The password, by reference.
    pub password: Spanned<SecretRef>,
    /// The password as read.
    #[serde(skip)]
    pub(crate) password_value: Option<SecretString>,
}

/// SASL mechanisms.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum SaslMechanism {
    /// Name and password in the clear: only over TLS.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Salted challenge and response, SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// Salted challenge and response, SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

/// Properties that Hookline sets itself: another value would break a guarantee.
const OWN_PROPERTIES: &[&str] = &[
    "acks",
    "request.required.acks",
    "enable.idempotence",
    "transactional.id",
    "isolation.level",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "partition.assignment.strategy",
    "partitioner",
    "bootstrap.servers",
    "metadata.broker.list",
    "security.protocol",
    "sasl.username",
    "sasl.password",
    "sasl.mechanism",
    "sasl.mechanisms",
];

impl KafkaConfig {
    pub(super) fn resolve(&mut self, at: &Places<'_>) -> Result<(), ConfigError> {
        if self.bootstrap_servers.trim().is_empty() {
            return Err(at.error(None, "kafka.bootstrap_servers", "is empty; write \"host:port\""));
        }
        for (name, value) in &self.properties {
            if OWN_PROPERTIES.contains(&name.as_str()) {
                let message =
                    "Hookline sets this property itself, since its guarantees rest on it; remove it";
                return Err(at.error(Some(value.span()), &format!("kafka.properties.{name}"), message));
            }
        }
        let wants_sasl =
            matches!(self.security_protocol, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl);
        if wants_sasl != self.sasl.is_some() {
            let message = "[kafka.sasl] goes with security_protocol = \"sasl_ssl\" or \"sasl_plaintext\"";
            return Err(at.error(None, "kafka.sasl", message));
        }
        if let Some(sasl) = &mut self.sasl {
            let value = sasl.password.get_ref().read();
            sasl.password_value =
                Some(value.map_err(|e| {
                    at.error(Some(sasl.password.span()), "kafka.sasl.password", &e.to_string())
                })?);
        }
        Ok(())
    }
}

/// The event log: one topic for all sources.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// The topic's name.
    pub topic: String,
    /// Partitions, 1 to 1,024. Fixed once the topic exists: entities are spread by it.
    pub partitions: u32,
    /// Copies of each record. 3 in production.
    pub replication_factor: u16,
    /// Copies that must have a record before it counts as written. 2 in production.
    pub min_insync_replicas: u16,
    /// How long Kafka keeps the log, such as `"90d"`; absent: for ever. Never below a pipeline's
    /// deduplication window.
    pub retention: Option<Span>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            topic: "hookline.events".to_owned(),
            partitions: 8,
            replication_factor: 3,
            min_insync_replicas: 2,
            retention: None,
        }
    }
}

impl LogConfig {
    pub(super) fn check(&self, at: &Places<'_>) -> Result<(), ConfigError> {
        if !(1..=1024).contains(&self.partitions) {
            return Err(at.error(None, "log.partitions", "must be 1 to 1024"));
        }
        if self.min_insync_replicas == 0 || self.min_insync_replicas > self.replication_factor {
            let message = "must be at least 1 and at most log.replication_factor";
            return Err(at.error(None, "log.min_insync_replicas", message));
        }
        Ok(())
    }
}
