//! What a refused request is answered with: RFC 9457 problem documents.
//!
//! One table has each kind's status, title and name. Details are ours or name a header; a body, a secret or a
//! signature is never repeated.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// The kinds of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The body broke off.
    CutOff,
    /// No valid signature.
    Signature,
    /// No such source.
    NotFound,
    /// Not POST.
    Method,
    /// The body came too slowly.
    Slow,
    /// The body is over the limit.
    TooLarge,
    /// The body is compressed.
    Encoding,
    /// The body is an array that is not taken.
    Array,
    /// The head is over the limit.
    Head,
    /// The log cannot take the webhook in time.
    Unavailable,
}

impl Kind {
    /// All of them, in the order of the enumeration.
    pub(crate) const ALL: [Self; 10] = [
        Self::CutOff,
        Self::Signature,
        Self::NotFound,
        Self::Method,
        Self::Slow,
        Self::TooLarge,
        Self::Encoding,
        Self::Array,
        Self::Head,
        Self::Unavailable,
    ];

    /// Status, name (in the problem's type and in metrics), title.
    const fn row(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::CutOff => (StatusCode::BAD_REQUEST, "cut-off", "The request broke off"),
            Self::Signature => (StatusCode::UNAUTHORIZED, "signature", "The signature is missing or wrong"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such webhook address"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method", "Webhooks are sent with POST"),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, "slow", "The request came too slowly"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large"),
            Self::Encoding => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoding", "Compressed bodies are not taken")
            }
            Self::Array => (StatusCode::UNPROCESSABLE_ENTITY, "array", "The body is an array"),
            Self::Head => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head", "The request's head is too large")
            }
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The webhook cannot be stored now")
            }
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        self.row().1
    }
}

/// Why a request is refused.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    detail: Cow<'static, str>,
    /// Seconds after which the sender may try again.
    retry_after_s: Option<u64>,
    /// The connection ends with this answer, since the rest of the request was not read.
    closes: bool,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), retry_after_s: None, closes: false }
    }

    /// 503, and when to try again.
    pub(crate) fn unavailable(detail: &'static str, retry_after_s: u64) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::new(Kind::Unavailable, detail) }
    }

    pub(crate) fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let (status, name, title) = self.kind.row();
        let document = serde_json::json!({
            "type": format!("/problems/{name}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(Full::new(Bytes::from(document.to_string())));
        *response.status_mut() = status;
        let mut put = |name: HeaderName, value: HeaderValue| drop(response.headers_mut().insert(name, value));
        put(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.kind == Kind::Method {
            put(ALLOW, HeaderValue::from_static("POST"));
        }
        if let Some(seconds) = self.retry_after_s {
            put(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.closes {
            put(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }
}
