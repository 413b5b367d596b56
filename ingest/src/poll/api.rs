//! Asks a provider's API: one request, its limits, and what kind of answer it was.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{DATE, HeaderMap, HeaderName, HeaderValue, LINK, RETRY_AFTER};
use jiff::Timestamp;
use nom_language::error::VerboseError;
use nom_rfc8288::complete::{LinkData, link_lenient};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::redirect;
use secrecy::{ExposeSecret as _, SecretString};
use shared::config::PollConfig;
use url::Url;

use crate::error::SetupError;

/// The longest wait that a `Retry-After` is obeyed for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// How long a connection to the provider may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One provider's API.
pub(super) struct Api {
    client: reqwest::Client,
    base: Url,
    token_header: HeaderName,
    token_format: String,
    body_bytes_max: u64,
}

/// An answer with status 200.
pub(super) struct Answer {
    pub(super) body: Bytes,
    /// The address of the next page, if a header names one.
    pub(super) next: Option<String>,
    /// The provider's time.
    pub(super) date: Option<Timestamp>,
}

/// Why there is no answer to go on with. No message repeats what the provider sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The token is refused: somebody has to renew it.
    #[error("the provider refuses the token (status {0})")]
    Unauthorized(u16),
    /// Too many requests.
    #[error("the provider asks to wait (status {status})")]
    Wait {
        status: u16,
        /// How long, where it says so.
        after: Option<Duration>,
    },
    /// Another list of the token was asked to wait: nothing was sent.
    #[error("the provider asked another list of the connection to wait")]
    Paused(Duration),
    /// A status of the request's own making: a list that is in the middle begins anew.
    #[error("the provider does not take the request (status {0})")]
    Refused(u16),
    /// What may be otherwise at the next try.
    #[error("{0}")]
    Passing(String),
}

impl Failure {
    /// The label of its metric.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "unauthorized",
            Self::Wait { .. } => "rate-limited",
            Self::Paused(_) => "paused",
            Self::Refused(_) => "refused",
            Self::Passing(_) => "failed",
        }
    }
}

impl Api {
    /// Prepares the client.
    ///
    /// # Errors
    /// The configuration is not what it must be.
    pub(super) fn new(source: &str, config: &PollConfig) -> Result<Self, SetupError> {
        let fail =
            |field: &str, message: String| SetupError::new(format!("sources.{source}.poll.{field}"), message);
        let base = Url::parse(config.url.get_ref())
            .map_err(|error| fail("url", format!("is not an address: {error}")).at(config.url.span()))?;
        let token_header = HeaderName::from_bytes(config.token_header.as_bytes())
            .map_err(|_| fail("token_header", "is not a header's name".to_owned()))?;
        let provider = rustls::crypto::ring::default_provider();
        let roots = rustls_native_certs::load_native_certs().certs;
        let mut store = rustls::RootCertStore::empty();
        store.add_parsable_certificates(roots);
        let tls = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .map_err(|error| fail("url", error.to_string()))?
            .with_root_certificates(store)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            // A redirect would take the token elsewhere.
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(config.timeout.0)
            .user_agent(concat!("hookline/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| fail("url", error.to_string()))?;
        Ok(Self {
            client,
            base,
            token_header,
            token_format: config.token_format.clone(),
            body_bytes_max: config.response_limit.0,
        })
    }

    /// The address of a path, which may hold `{entity}`, with parameters.
    pub(super) fn url(
        &self,
        path: &str,
        entity: Option<&str>,
        query: &[(&str, &str)],
    ) -> Result<Url, String> {
        let path = match entity {
            // They would name another path, however they are written.
            Some("." | "..") => return Err("the entity's id is a step in a path".to_owned()),
            Some(entity) => {
                path.replace("{entity}", &utf8_percent_encode(entity, NON_ALPHANUMERIC).to_string())
            }
            None => path.to_owned(),
        };
        let text = format!("{}{path}", self.base.as_str().trim_end_matches('/'));
        let mut url = Url::parse(&text).map_err(|error| format!("{path} gives no address: {error}"))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// The address that a page named as the next one: at the provider, or nowhere, since the token goes there.
    pub(super) fn next_url(&self, next: &str) -> Result<Url, String> {
        let url = self.base.join(next).map_err(|error| format!("the next page has no address: {error}"))?;
        if url.origin() != self.base.origin() {
            return Err("the next page is at another host, which is not given the token".to_owned());
        }
        Ok(url)
    }

    /// Asks for one address.
    pub(super) async fn get(&self, url: Url, token: &SecretString) -> Result<Answer, Failure> {
        let text = self.token_format.replace("{token}", token.expose_secret());
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| Failure::Passing("the token has characters that no header can have".to_owned()))?;
        value.set_sensitive(true);
        let request =
            self.client.get(url).header(&self.token_header, value).header("accept", "application/json");
        let mut response = request.send().await.map_err(|error| passing(&error))?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        if let Some(failure) = failure(status, &headers) {
            return Err(failure);
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| passing(&error))? {
            if (body.len() + chunk.len()) as u64 > self.body_bytes_max {
                let max = self.body_bytes_max;
                return Err(Failure::Passing(format!(
                    "the answer is longer than {max} bytes (poll.response_limit)"
                )));
            }
            body.extend_from_slice(&chunk);
        }
        let date = headers.get(DATE).and_then(|value| value.to_str().ok()).and_then(date);
        Ok(Answer { body: body.freeze(), next: next(&headers), date })
    }
}

fn failure(status: StatusCode, headers: &HeaderMap) -> Option<Failure> {
    let code = status.as_u16();
    match code {
        200 => None,
        401 | 403 => Some(Failure::Unauthorized(code)),
        429 | 503 => Some(Failure::Wait { status: code, after: retry_after(headers) }),
        408 | 425 => Some(Failure::Passing(format!("the provider is not ready (status {code})"))),
        400..=499 => Some(Failure::Refused(code)),
        300..=399 => Some(Failure::Passing(format!(
            "the provider answers with a redirect (status {code}), which is not followed: the token would go \
             elsewhere; set poll.url to where it leads"
        ))),
        _ => Some(Failure::Passing(format!("the provider answers with status {code}"))),
    }
}

/// Without the address, whose parameters are the provider's.
fn passing(error: &reqwest::Error) -> Failure {
    let what = if error.is_timeout() {
        "no answer in time (poll.timeout)"
    } else if error.is_connect() {
        "the provider cannot be reached"
    } else {
        "the provider's answer broke off"
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Failure::Passing(if error.is_timeout() { what.to_owned() } else { format!("{what}: {cause}") })
}

/// RFC 9110: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(std::time::SystemTime::now()).ok()?,
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

fn date(text: &str) -> Option<Timestamp> {
    Timestamp::try_from(httpdate::parse_http_date(text).ok()?).ok()
}

/// RFC 8288: `Link: <address>; rel="next"`, where `rel` may hold several words.
fn next(headers: &HeaderMap) -> Option<String> {
    headers.get_all(LINK).into_iter().find_map(|value| {
        let links = link_lenient::<VerboseError<&str>>(value.to_str().ok()?).ok()?;
        let is_next = |link: &LinkData<'_>| {
            let rel = link.params.iter().find(|param| param.key.eq_ignore_ascii_case("rel"));
            let words = rel.and_then(|rel| rel.val.as_deref()).unwrap_or_default();
            words.split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case("next"))
        };
        links.into_iter().flatten().find(is_next).map(|link| link.url.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api() -> Api {
        let config = "url = \"https://api.example.com/v1\"\n[resources]\n";
        Api::new("s", &toml::from_str(config).unwrap()).unwrap()
    }

    #[test]
    fn an_entity_names_one_record_and_no_other_path() {
        let url = |entity| api().url("/orders/{entity}", Some(entity), &[]).map(|url| url.to_string());
        assert_eq!(url("45/00?x#y").unwrap(), "https://api.example.com/v1/orders/45%2F00%3Fx%23y");
        assert!(url("..").is_err());
        let listed = api().url("/orders", None, &[("limit", "5"), ("cursor", "a&b=c")]).unwrap();
        assert_eq!(listed.as_str(), "https://api.example.com/v1/orders?limit=5&cursor=a%26b%3Dc");
    }

    #[test]
    fn the_token_goes_to_no_other_host() {
        let next = |link| api().next_url(link).map(|url| url.to_string());
        assert_eq!(next("/v1/orders?page=2").unwrap(), "https://api.example.com/v1/orders?page=2");
        assert_eq!(next("https://api.example.com/x").unwrap(), "https://api.example.com/x");
        for link in ["https://elsewhere.example/v1", "http://api.example.com/v1", "//elsewhere.example"] {
            assert!(next(link).unwrap_err().contains("another host"), "{link}");
        }
    }

    #[test]
    fn headers_are_read_as_they_are_written() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(7)));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("99999999"));
        assert_eq!(retry_after(&headers), Some(RETRY_AFTER_MAX));
        headers.insert(
            LINK,
            HeaderValue::from_static("<https://a/b?p=1,2>; rel=\"prev\", </b?p=3>; rel=\"next\""),
        );
        assert_eq!(next(&headers).as_deref(), Some("/b?p=3"));
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap().as_second(), 784_111_777);
    }
}
