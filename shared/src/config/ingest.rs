//! `[ingest]`: the addresses, limits and certificates of the HTTP side.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::units::{Size, Span};

/// The HTTP side.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Where webhooks are received.
    pub listen: SocketAddr,
    /// Where `/livez`, `/readyz` and `/metrics` are served. Not for the public.
    pub admin_listen: SocketAddr,
    /// The same of `ingest poll`, which may run beside `ingest serve`.
    pub poll_admin_listen: SocketAddr,
    /// Where senders reach this ingest, such as `https://hooks.example.com`: for `ingest urls`.
    pub public_url: Option<String>,
    /// The largest body that is taken, at most 8 MiB; a larger one is answered with 413.
    pub body_limit: Size,
    /// The largest request head (request line and headers), 8 KiB to 64 KiB; a larger one is answered with 431.
    pub head_limit: Size,
    /// How long a client may take to send a request's head, and again its body.
    pub read_timeout: Span,
    /// Open connections at once; further ones wait in the listener's backlog.
    pub connections_max: u32,
    /// Webhooks between verification and acknowledgement, together at most this many bytes; beyond it 503.
    pub in_flight_limit: Size,
    /// After SIGTERM, how long requests that were accepted may take to finish.
    pub drain_timeout: Span,
    /// Whether each connection has a metric of its own: when it last sent an event. A series for each, up to 10,000.
    pub metrics_per_connection: bool,
    /// HTTPS. Without it ingest speaks plain HTTP, for behind an ingress or a load balancer.
    pub tls: Option<TlsFiles>,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            poll_admin_listen: SocketAddr::from(([127, 0, 0, 1], 9467)),
            public_url: None,
            body_limit: Size::kib(1024),
            head_limit: Size::kib(32),
            read_timeout: Span::secs(10),
            connections_max: 10_000,
            in_flight_limit: Size::kib(64 * 1024),
            drain_timeout: Span::secs(15),
            metrics_per_connection: false,
            tls: None,
        }
    }
}

/// A certificate chain and its key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// PEM file with the certificate chain, leaf first.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}
