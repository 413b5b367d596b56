//! The HTTP side of a test: posts webhooks with any headers, and sends bytes that no HTTP client would.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::http::Request;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// How long one exchange may take.
const EXCHANGE_TIME_LIMIT: Duration = Duration::from_secs(60);

/// An HTTP client that keeps connections and follows no redirects. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
}

/// What the server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Client {
    /// A client for `http://`.
    #[must_use]
    pub fn new() -> Self {
        Self::build(None)
    }

    /// A client for `https://` that trusts only the certificate in `pem`.
    ///
    /// # Panics
    /// When `pem` holds no certificate.
    #[must_use]
    pub fn trusting(pem: &[u8]) -> Self {
        let certificate = Certificate::from_pem(pem).expect("a certificate");
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[certificate]))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        Self::build(Some(tls))
    }

    fn build(tls: Option<TlsConfig>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(EXCHANGE_TIME_LIMIT));
        let config = match tls {
            Some(tls) => config.tls_config(tls),
            None => config,
        };
        Self { agent: Agent::new_with_config(config.build()) }
    }

    /// `POST`s `body` with `headers`, one line for each, in this order.
    ///
    /// # Errors
    /// No answer: refused, cut off, out of time.
    ///
    /// # Panics
    /// When a header or the URL is malformed: see [`raw`] for that.
    pub fn post(&self, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, ureq::Error> {
        let mut request = Request::post(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.agent.run(request.body(body).expect("a well-formed request"))?;
        Answer::read(response)
    }

    /// `GET`s `url`.
    ///
    /// # Errors
    /// No answer: refused, cut off, out of time.
    pub fn get(&self, url: &str) -> Result<Answer, ureq::Error> {
        Answer::read(self.agent.get(url).call()?)
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Answer {
    fn read(mut response: ureq::http::Response<ureq::Body>) -> Result<Self, ureq::Error> {
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        Ok(Self { status: response.status().as_u16(), headers, body: response.body_mut().read_to_vec()? })
    }

    /// The first header of this name (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends `bytes` as they are, says with a half-close that no more will come, and returns what comes back
/// until the server closes: empty when it closes without an answer.
///
/// # Panics
/// When it cannot connect, or the server keeps the connection open for longer than `time_limit`.
#[must_use]
pub fn raw(address: SocketAddr, bytes: &[u8], time_limit: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(time_limit)).expect("a read time-out");
    // A server that refuses early closes while bytes are still on their way: that is an answer too.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{address} keeps the connection open");
    }
    answer
}
