//! W3C trace context: a valid one is passed on, else a new trace begins; and, where traces are exported, the
//! spans of a request: `POST /webhooks/{source}` and, within it, `send hookline.events`, whose context goes into
//! the record. Where they are not, nothing is sampled, and the flags say so.
//!
//! Format: W3C Trace Context, level 1; OpenTelemetry's semantic conventions for HTTP and messaging.

use http::request::Parts;
use http::{HeaderMap, StatusCode};
use rand::Rng;
use shared::spans::{self, Kind, Parent, Span, Start, Value};

/// Methods that the conventions know; another one is `_OTHER`, so that callers cannot make up names.
const METHODS: &[http::Method] = &[
    http::Method::CONNECT,
    http::Method::DELETE,
    http::Method::GET,
    http::Method::HEAD,
    http::Method::OPTIONS,
    http::Method::PATCH,
    http::Method::POST,
    http::Method::PUT,
    http::Method::TRACE,
];
/// The longest `tracestate` that is passed on.
const TRACESTATE_LEN_MAX: usize = 512;

/// The trace that a webhook belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// `traceparent`.
    pub parent: String,
    /// `tracestate`, only ever with a `traceparent` from outside.
    pub state: Option<String>,
}

impl TraceContext {
    /// The request's trace, or a new one.
    #[must_use]
    pub fn of(headers: &HeaderMap, random: &mut impl Rng) -> Self {
        Self::passed_on(headers).unwrap_or_else(|| Self::new(random))
    }

    /// What log lines carry as `trace_id`.
    #[must_use]
    pub fn id(&self) -> &str {
        spans::trace_id(&self.parent)
    }

    fn passed_on(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all("traceparent").iter();
        let parent = parents.next()?.to_str().ok()?;
        if parents.next().is_some() || !is_traceparent(parent) {
            return None;
        }
        let states: Option<Vec<&str>> =
            headers.get_all("tracestate").iter().map(|v| v.to_str().ok()).collect();
        let state = states.filter(|list| !list.is_empty()).map(|list| list.join(","));
        Some(Self {
            parent: parent.to_owned(),
            state: state.filter(|text| (1..=TRACESTATE_LEN_MAX).contains(&text.len())),
        })
    }

    fn new(random: &mut impl Rng) -> Self {
        // Neither part may be zero; setting a bit costs nothing and makes sure.
        let trace = random.next_u64() | 1;
        let (more, span) = (random.next_u64(), random.next_u64() | 1);
        Self { parent: format!("00-{more:016x}{trace:016x}-{span:016x}-00"), state: None }
    }
}

/// The span of a request; `None` where traces are off. `in_path`: whether the address has a connection, where
/// it is one of a source's.
pub(crate) fn request(parts: &Parts, scheme: &'static str, in_path: Option<bool>) -> Option<Span> {
    if !spans::is_on() {
        return None;
    }
    let route = in_path.map(|in_path| match in_path {
        true => "/webhooks/{source}/{connection}",
        false => "/webhooks/{source}",
    });
    let known = METHODS.contains(&parts.method).then_some(parts.method.as_str());
    let mut attributes = vec![
        ("http.request.method", Value::from(known.unwrap_or("_OTHER"))),
        ("url.scheme", Value::from(scheme)),
        ("url.path", Value::from(parts.uri.path())),
    ];
    attributes.extend(route.map(|route| ("http.route", Value::from(route))));
    let caller = TraceContext::passed_on(&parts.headers);
    let method = known.unwrap_or("HTTP");
    spans::start(Start {
        name: route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}")),
        kind: Kind::Server,
        parent: Parent {
            traceparent: caller.as_ref().map(|caller| caller.parent.as_str()),
            tracestate: caller.as_ref().and_then(|caller| caller.state.as_deref()),
        },
        at: None,
        attributes,
    })
}

/// The request was answered.
pub(crate) fn answered(mut span: Span, status: StatusCode) {
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(status.as_str());
    }
    span.end(None);
}

/// The span of the append, within the request's.
pub(crate) fn send(topic: &str, request: &Span) -> Option<Span> {
    spans::start(Start {
        name: format!("send {topic}"),
        kind: Kind::Producer,
        parent: Parent { traceparent: Some(&request.traceparent()), tracestate: None },
        at: None,
        attributes: vec![
            ("messaging.system", Value::from("kafka")),
            ("messaging.operation.name", Value::from("send")),
            ("messaging.operation.type", Value::from("send")),
            ("messaging.destination.name", Value::from(topic)),
        ],
    })
}

/// The append is over.
pub(crate) fn sent(mut span: Span, acknowledged: bool, records: usize) {
    if records != 1 {
        span.set("messaging.batch.message_count", i64::try_from(records).unwrap_or(i64::MAX));
    }
    if !acknowledged {
        span.fail("not_acknowledged");
    }
    span.end(None);
}

fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |len: usize| {
        parts.next().filter(|part| {
            part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    };
    let (Some(version), Some(trace), Some(span), Some(_)) = (hex(2), hex(32), hex(16), hex(2)) else {
        return false;
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    // A later version may have more parts; this one has not.
    version != "ff"
        && !zero(trace)
        && !zero(span)
        && (version != "00" || parts.next().is_none())
        && text.len() <= 128
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(pairs: &[(&'static str, &str)]) -> TraceContext {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        TraceContext::of(&headers, &mut rand::rng())
    }

    #[test]
    fn a_valid_trace_is_passed_on() {
        let trace = of(&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]);
        assert_eq!(trace, TraceContext { parent: PARENT.to_owned(), state: Some("a=1,b=2".to_owned()) });
    }

    #[test]
    fn an_invalid_trace_is_replaced_together_with_its_state() {
        let zero = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        for bad in [zero, "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", "x", &PARENT[..54]] {
            let trace = of(&[("traceparent", bad), ("tracestate", "a=1")]);
            assert!(is_traceparent(&trace.parent) && trace.parent.ends_with("-00") && trace.parent != bad);
            assert_eq!(trace.state, None);
        }
        assert_ne!(of(&[]).parent, of(&[]).parent);
        assert_ne!(of(&[("traceparent", PARENT), ("traceparent", PARENT)]).parent, PARENT);
    }
}
