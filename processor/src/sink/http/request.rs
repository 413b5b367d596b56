//! One event as a request: CloudEvents' attributes, position and epoch, signed as Standard Webhooks say; and what
//! an answer means.
//!
//! Never repeats the URL's path, which may hold a token, or what the receiver answers.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rustls::crypto::ring::default_provider;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use shared::config::HttpSinkConfig;
use shared::event::{encode_source, entity_key, sha256_hex};
use ureq::Agent;
use ureq::http::header::{DATE, RETRY_AFTER};
use ureq::http::request::Builder;
use ureq::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::sink::rows::{self, Row};
use crate::sink::{Batch, SinkError};

/// For a connection to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// So much of an answer's body is read, for the connection to be used again.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What a header's value escapes (CloudEvents' HTTP binding): all but printable ASCII without `"` and `%`.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// What came of a request.
pub(crate) enum Answer {
    /// 2xx.
    Taken,
    /// The event, or the way to the receiver, must change.
    Refused(SinkError),
    /// What passes; the receiver may have said when.
    Again {
        /// What is told if no try succeeds.
        error: SinkError,
        /// `Retry-After`.
        after: Option<Duration>,
    },
}

/// The way to a receiver.
pub(crate) struct Client {
    agent: Agent,
    url: String,
    /// Scheme, host and port.
    shown: String,
    keys: Vec<Hmac<Sha256>>,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Client {
    /// `place` is the key of the configuration, for errors.
    pub(crate) fn new(config: &HttpSinkConfig, place: &str) -> Result<Self, SinkError> {
        let url = config.url_value.as_ref().map_or("", |url| url.expose_secret()).to_owned();
        let shown = shown(&url).ok_or_else(|| {
            SinkError::Halt(format!(
                "{place}.url cannot be read: it has the form https://host:port/path, without user and password"
            ))
        })?;
        let keys = config.secret_values.iter().map(key).collect::<Option<Vec<_>>>().ok_or_else(|| {
            SinkError::Halt(format!(
                "one of {place}.secrets is not a Standard Webhooks secret: base64, with or without `whsec_` before it"
            ))
        })?;
        let mut agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(config.timeout.0))
            .max_idle_connections_per_host(usize::try_from(config.concurrency).unwrap_or(16))
            .max_idle_connections(usize::try_from(config.concurrency).unwrap_or(16))
            .user_agent(concat!("hookline/", env!("CARGO_PKG_VERSION")));
        if url.starts_with("https:") {
            let found = rustls_native_certs::load_native_certs().certs;
            let roots: Vec<_> =
                found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::new_with_certs(&roots))
                .unversioned_rustls_crypto_provider(Arc::new(default_provider()));
            agent = agent.tls_config(tls.build());
        }
        Ok(Self { agent: Agent::new_with_config(agent.build()), url, shown, keys })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Sends an event once.
    pub(super) fn post(&self, batch: &Batch<'_>, row: &Row<'_>) -> Answer {
        match self.request(batch, row, unix_now()) {
            Ok(request) => self.send(request),
            Err(error) => Answer::Refused(error),
        }
    }

    /// Sends JSON once, under an id by which repeats are known.
    #[cfg(feature = "alerts")]
    pub(crate) fn post_json(&self, id: &str, body: &[u8]) -> Answer {
        let request =
            Request::post(&self.url).header("content-type", "application/json").header("idempotency-key", id);
        match self.signed(request, id, unix_now(), body).body(body) {
            Ok(request) => self.send(request),
            Err(_) => Answer::Refused(SinkError::Refused("it makes no HTTP request".to_owned())),
        }
    }

    fn send(&self, request: Request<&[u8]>) -> Answer {
        match self.agent.run(request) {
            Ok(answer) => self.answered(answer),
            Err(error) => self.unanswered(&error),
        }
    }

    fn request<'r>(
        &self,
        batch: &Batch<'_>,
        row: &Row<'r>,
        now: u64,
    ) -> Result<Request<&'r [u8]>, SinkError> {
        let event = &row.event;
        let id = idempotency_key(row);
        let position = format!("{}:{}", batch.partition, row.position);
        let source = encode_source(event.source, &event.connection);
        let mut request = Request::post(&self.url)
            .header("content-type", content_type(event.content_type))
            .header("idempotency-key", &id)
            .header("hookline-position", position)
            .header("hookline-epoch", batch.to.epoch.to_string())
            .header("ce-specversion", "1.0")
            .header("ce-id", value(event.id)?)
            .header("ce-source", value(&source)?)
            .header("ce-type", value(event.kind)?);
        let optional = [
            ("ce-time", rows::event_time(row)),
            ("ce-subject", event.entity),
            ("ce-sequence", event.sequence),
            ("traceparent", event.traceparent),
        ];
        for (name, text) in optional {
            if let Some(text) = text {
                request = request.header(name, value(text)?);
            }
        }
        self.signed(request, &id, now, row.body).body(row.body).map_err(|_| {
            SinkError::Refused(format!("the event at offset {} makes no HTTP request", row.event_offset))
        })
    }

    /// With the headers of Standard Webhooks, where there is a key.
    fn signed(&self, request: Builder, id: &str, now: u64, body: &[u8]) -> Builder {
        if self.keys.is_empty() {
            return request;
        }
        request
            .header("webhook-id", id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", self.signature(id, now, body))
    }

    /// By each key: while a secret is replaced, the receiver may have either.
    fn signature(&self, id: &str, now: u64, body: &[u8]) -> String {
        let sign = |key: &Hmac<Sha256>| {
            let mac = key.clone().chain_update(format!("{id}.{now}.")).chain_update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        };
        self.keys.iter().map(sign).collect::<Vec<_>>().join(" ")
    }

    fn answered(&self, mut answer: Response<ureq::Body>) -> Answer {
        let status = answer.status();
        let after = retry_after(answer.headers(), SystemTime::now());
        // Read, so that the connection can be used again; what it says is not told.
        let _ = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let text = format!("{self}: status {}", status.as_u16());
        match meaning(status) {
            Meaning::Taken => Answer::Taken,
            Meaning::Again => Answer::Again { error: SinkError::Retry(text), after },
            Meaning::Refused => Answer::Refused(SinkError::Refused(text)),
            Meaning::Halt(way_out) => Answer::Refused(SinkError::Halt(format!("{text}: {way_out}"))),
        }
    }

    fn unanswered(&self, error: &ureq::Error) -> Answer {
        let is_unsafe = matches!(error, ureq::Error::Rustls(_) | ureq::Error::Tls(_))
            || matches!(error, ureq::Error::Io(cause) if cause.kind() == ErrorKind::InvalidData);
        if is_unsafe {
            return Answer::Refused(SinkError::Halt(format!(
                "{self}: no safe TLS connection ({error}): let SSL_CERT_FILE name the file with the CA certificate \
                 to trust, and the URL name the host as the certificate does"
            )));
        }
        // No other one repeats more of the URL than host and port.
        let is_bad_url = matches!(error, ureq::Error::BadUri(_));
        let text = if is_bad_url { "the URL cannot be used".to_owned() } else { error.to_string() };
        Answer::Again { error: SinkError::Retry(format!("{self}: {text}")), after: None }
    }
}

/// Unix time in seconds.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The same for every delivery of an event, in every pipeline: a digest, since ids are of any length.
fn idempotency_key(row: &Row<'_>) -> String {
    sha256_hex(entity_key(row.event.source, &row.event.connection, row.event.id).as_bytes())
}

/// As it came: it is no attribute.
fn content_type(text: Option<&str>) -> HeaderValue {
    let given = text.and_then(|text| HeaderValue::from_str(text).ok());
    given.unwrap_or_else(|| HeaderValue::from_static("application/octet-stream"))
}

fn value(text: &str) -> Result<HeaderValue, SinkError> {
    let escaped = utf8_percent_encode(text, ESCAPED).to_string();
    HeaderValue::try_from(escaped)
        .map_err(|_| SinkError::Refused("an attribute makes no HTTP header".to_owned()))
}

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Taken,
    Again,
    Refused,
    /// With what is to be done.
    Halt(&'static str),
}

fn meaning(status: StatusCode) -> Meaning {
    match status.as_u16() {
        200..=299 => Meaning::Taken,
        // Conflict: the receiver has the same key under way. Too early, too many, and whatever is the server's.
        408 | 409 | 425 | 429 | 500.. => Meaning::Again,
        300..=399 => Meaning::Halt("redirects are not followed: name the address that it names in `url`"),
        401 | 403 | 407 => Meaning::Halt(
            "let the receiver take Hookline's requests, by the secret that they are signed with",
        ),
        404 | 405 | 410 => Meaning::Halt("there is nothing that takes events: correct `url`"),
        _ => Meaning::Refused,
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), which counts from the answer's own `Date` where there is
/// one: the receiver's clock may differ from `now`. A date that is past is no time to wait.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let from = headers.get(DATE).and_then(|value| date(value.to_str().ok()?)).unwrap_or(now);
    Some(date(text)?.duration_since(from).unwrap_or(Duration::ZERO))
}

fn key(secret: &SecretString) -> Option<Hmac<Sha256>> {
    let text = secret.expose_secret();
    let text = text.strip_prefix("whsec_").unwrap_or(text).trim_end_matches('=');
    let bytes = STANDARD_NO_PAD.decode(text).ok().filter(|bytes| !bytes.is_empty())?;
    Hmac::new_from_slice(&bytes).ok()
}

/// Scheme, host and port of an HTTP URL.
fn shown(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    (matches!(scheme, "http" | "https") && !authority.as_str().contains('@'))
        .then(|| format!("{scheme}://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answers_status_says_what_to_do() {
        let of = |code: u16| meaning(StatusCode::from_u16(code).unwrap());
        for code in [200, 201, 202, 204] {
            assert_eq!(of(code), Meaning::Taken, "{code}");
        }
        for code in [408, 409, 425, 429, 500, 502, 503, 504, 599] {
            assert_eq!(of(code), Meaning::Again, "{code}");
        }
        for code in [400, 413, 415, 422, 418] {
            assert_eq!(of(code), Meaning::Refused, "{code}");
        }
        for code in [301, 307, 401, 403, 404, 405, 410] {
            assert!(matches!(of(code), Meaning::Halt(_)), "{code}");
        }
    }

    #[test]
    fn a_receiver_says_how_long_to_wait_in_seconds_or_by_a_date() {
        let (now, at) = ("Sun, 06 Nov 1994 08:49:07 GMT", "Sun, 06 Nov 1994 08:49:37 GMT");
        let of = |after: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, after.parse().unwrap());
            headers.extend(date.map(|date| (DATE, date.parse().unwrap())));
            retry_after(&headers, httpdate::parse_http_date(now).unwrap())
        };
        assert_eq!(of("120", None), Some(Duration::from_secs(120)));
        assert_eq!(of(at, None), Some(Duration::from_secs(30)));
        // By the receiver's clock, which is ahead.
        assert_eq!(of(at, Some("Sun, 06 Nov 1994 08:49:27 GMT")), Some(Duration::from_secs(10)));
        assert_eq!(of(now, Some(at)), Some(Duration::ZERO));
        for unknown in ["", "soon", "-1", "1.5"] {
            assert_eq!(of(unknown, None), None, "{unknown}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), SystemTime::now()), None);
    }

    #[test]
    fn what_is_shown_of_a_url_has_no_secret() {
        assert_eq!(shown("https://h:8443/hunter2?t=hunter2"), Some("https://h:8443".to_owned()));
        for url in ["https://u:hunter2@h/", "ftp://h/hunter2", "hunter2", "/hunter2", ""] {
            assert_eq!(shown(url), None, "{url}");
        }
    }

    #[test]
    fn headers_hold_any_text() {
        assert_eq!(value("a b\"%\u{e9}\n~").unwrap(), "a%20b%22%25%C3%A9%0A~");
    }

    /// The example of the Standard Webhooks specification.
    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        let secret = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let client = Client {
            agent: Agent::new_with_defaults(),
            url: String::new(),
            shown: String::new(),
            keys: vec![key(&secret).unwrap()],
        };
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            client.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn a_secret_is_base64() {
        for text in ["whsec_", "", "whsec_!", "hunter2!"] {
            assert!(key(&text.into()).is_none(), "{text}");
        }
        assert!(key(&"whsec_aHVudGVyMg==".into()).is_some() && key(&"aHVudGVyMg".into()).is_some());
    }
}
