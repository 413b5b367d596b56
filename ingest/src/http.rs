//! One request's way: address, limits, body, signature, extraction, log, answer.
//!
//! It decides nothing of its own about a webhook; it calls `body`, `signature`, `extract` and `append` in this
//! order and turns what they say into an answer. 200 stands in one place, after the acknowledgement.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use ::http::header::{CONTENT_ENCODING, EXPECT};
use ::http::request::Parts;
use ::http::{HeaderMap, Method, Request, Response};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use percent_encoding::percent_decode_str;
use shared::event::ATTRIBUTE_LEN_MAX;
use shared::spans::Span;

use crate::append::{AppendError, Log};
use crate::body::Limits;
use crate::extract::{Unfit, extract};
use crate::metrics::{Outcome, SourceMetrics};
use crate::problem::{Kind, Problem};
use crate::signature::{Refusal, Unverified};
use crate::source::Source;
use crate::trace::{self, TraceContext};

/// Seconds after which a sender may try again.
const RETRY_SOON_S: u64 = 1;
const RETRY_LATER_S: u64 = 5;

/// What requests are served with.
pub(crate) struct App {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    pub(crate) sources: HashMap<String, Source>,
    pub(crate) log: Arc<Log>,
    pub(crate) limits: Limits,
    pub(crate) head_limit: u64,
    /// Counts requests to addresses that nobody configured.
    pub(crate) unknown: SourceMetrics,
}

/// Serves one request.
pub(crate) async fn handle(app: &App, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let since = Instant::now();
    let (parts, body) = request.into_parts();
    let route = route(&app.sources, parts.uri.path());
    let in_path = route.as_ref().map(|(source, _)| source.connection_in_path);
    let span = trace::request(&parts, app.scheme, in_path);
    let mut trace = TraceContext::of(&parts.headers, &mut rand::rng());
    if let Some(span) = &span {
        trace.parent = span.traceparent();
    }
    let metrics = route.as_ref().map_or(&app.unknown, |(source, _)| &source.metrics);
    let answer = match admit(app, route, &parts, &body) {
        Ok((source, connection)) => {
            take(app, source, connection, parts.headers, body, &trace, span.as_ref()).await
        }
        Err(problem) => {
            // A sender that waits for `100 Continue` has not sent its body, and will not.
            if !body.is_end_stream() && !parts.headers.contains_key(EXPECT) {
                app.limits.drain(body).await;
            }
            Err(problem)
        }
    };
    let (outcome, response) = match answer {
        Ok(outcome) => {
            tracing::debug!(trace_id = trace.id(), "webhook taken in");
            (outcome, Response::new(Full::default()))
        }
        Err(problem) => {
            tracing::debug!(trace_id = trace.id(), ?problem, "request refused");
            (Outcome::Refused(problem.kind), problem.into_response())
        }
    };
    metrics.record(outcome, since.elapsed());
    if let Some(span) = span {
        trace::answered(span, response.status());
    }
    response
}

/// The source that a path addresses, and the connection.
fn route<'a>(sources: &'a HashMap<String, Source>, path: &str) -> Option<(&'a Source, Option<String>)> {
    let rest = path.strip_prefix("/webhooks/")?;
    let (name, connection) = match rest.split_once('/') {
        Some((name, connection)) => (name, Some(connection)),
        None => (rest, None),
    };
    let source = sources.get(name)?;
    if connection.is_some() != source.connection_in_path {
        return None;
    }
    let Some(connection) = connection else { return Some((source, None)) };
    if connection.contains('/') {
        return None;
    }
    let text = percent_decode_str(connection).decode_utf8().ok()?;
    (1..=ATTRIBUTE_LEN_MAX).contains(&text.len()).then(|| (source, Some(text.into_owned())))
}

/// What can be refused before the body is read.
fn admit<'a>(
    app: &App,
    route: Option<(&'a Source, Option<String>)>,
    parts: &Parts,
    body: &Incoming,
) -> Result<(&'a Source, Option<String>), Problem> {
    if head_bytes(parts) > app.head_limit {
        return Err(Problem::new(Kind::Head, format!("the limit is {} bytes", app.head_limit)));
    }
    let route = route.ok_or_else(|| {
        Problem::new(
            Kind::NotFound,
            "addresses are /webhooks/SOURCE or, by source, /webhooks/SOURCE/CONNECTION",
        )
    })?;
    if parts.method != Method::POST {
        return Err(Problem::new(Kind::Method, "this address takes POST only"));
    }
    if is_encoded(&parts.headers) {
        return Err(Problem::new(Kind::Encoding, "send the body without Content-Encoding"));
    }
    if body.size_hint().lower() > app.limits.bytes_max {
        return Err(app.limits.too_large());
    }
    Ok(route)
}

/// The size of the request's line and headers, as HTTP/1.1 writes them.
fn head_bytes(parts: &Parts) -> u64 {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let line = parts.method.as_str().len() + target + " HTTP/1.1\r\n ".len();
    let headers =
        parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    (line + headers.sum::<usize>() + "\r\n".len()) as u64
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Takes a webhook in. `Ok` means that the log has it on all in-sync replicas.
async fn take(
    app: &App,
    source: &Source,
    path_connection: Option<String>,
    headers: HeaderMap,
    body: Incoming,
    trace: &TraceContext,
    span: Option<&Span>,
) -> Result<Outcome, Problem> {
    let body = app.limits.read(body).await?;
    let received = Instant::now();
    let received_at_ms = jiff::Timestamp::now().as_millisecond();
    let request = Unverified { headers, body, path_connection, received_at_ms };
    let webhook = source.verifier.load().verify(request)?;
    let mut events = extract(&source.plan, &webhook, trace)?;
    let send = span.and_then(|request| trace::send(app.log.topic(), request));
    if let Some(send) = &send {
        // The record belongs to the span that sends it; the vendors' part stays the request's.
        events.set_traceparent(&send.traceparent());
    }
    let left = source.deadline.saturating_sub(received.elapsed());
    let appended = app.log.append(&events, left).await;
    if let Some(send) = send {
        trace::sent(send, appended.is_ok(), events.events().len());
    }
    appended?;
    source.appended(&app.log, &events);
    Ok(if events.has_problem() { Outcome::Unreadable } else { Outcome::Accepted })
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(Kind::Signature, refusal.to_string())
    }
}

impl From<Unfit> for Problem {
    fn from(unfit: Unfit) -> Self {
        let kind = match unfit {
            Unfit::Array => Kind::Array,
            Unfit::Connection => Kind::Signature,
        };
        Self::new(kind, unfit.to_string())
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full => {
                Self::unavailable("too many webhooks are waiting to be stored", RETRY_SOON_S)
            }
            AppendError::NotReady => Self::unavailable("the log is not ready", RETRY_LATER_S),
            AppendError::Deadline => {
                Self::unavailable("the log did not acknowledge in time; send it again", RETRY_LATER_S)
            }
            AppendError::Refused(_) => {
                Self::unavailable("the log did not take the webhook; send it again", RETRY_LATER_S)
            }
        }
    }
}
