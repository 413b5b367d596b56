//! The provider's API over HTTP: lists in pages, single records, the state of synchronisation, for whoever has a
//! connection's token. It is strict: an unknown parameter, or a value beyond its limits, is a 400 that says which.
//!
//! Besides `/api/v1` with cursors, `/api/pages/v1` has the same lists by page numbers, which skip and repeat records
//! when others are deleted meanwhile, and `/api/links/v1` as arrays with the next page's address in `Link`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LINK, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::cursor::Cursor;
use super::engine::Engine;
use super::record::rfc3339_ms;
use super::requests::Asked;
use super::resource::Resource;
use super::scenario::FaultKind;
use super::world::Page;

/// Requests that are answered at once; more get 503.
const REQUESTS_MAX: usize = 256;
/// Records of a page, where nothing else is asked for.
const PAGE_DEFAULT: usize = 50;

type Shared = Arc<Engine>;
type Parameters = Query<Vec<(String, String)>>;

/// How a list is divided.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Cursor,
    Pages,
    Links,
}

/// An answer that is an error.
struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Problem {
    fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "invalid_request", message: message.into() }
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: "not_found", message: message.into() }
    }

    fn answer(self) -> Response {
        json_answer(self.status, &json!({ "error": { "code": self.code, "message": self.message } }))
    }
}

/// The API's routes.
pub(crate) fn router() -> Router<Shared> {
    let in_flight = Arc::new(Semaphore::new(REQUESTS_MAX));
    Router::new()
        .route("/api/v1/sync-status", get(sync_status))
        .route("/api/v1/{list}", get(list_by_cursor))
        .route("/api/v1/{list}/{id}", get(one))
        .route("/api/pages/v1/{list}", get(list_by_page))
        .route("/api/links/v1/{list}", get(list_by_link))
        .layer(middleware::from_fn_with_state(in_flight, limit))
}

async fn limit(State(in_flight): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = in_flight.try_acquire() else {
        let message = format!("{REQUESTS_MAX} requests are being answered already");
        return Problem { status: StatusCode::SERVICE_UNAVAILABLE, code: "busy", message }.answer();
    };
    next.run(request).await
}

async fn list_by_cursor(
    engine: State<Shared>,
    list: Path<String>,
    head: HeaderMap,
    query: Parameters,
) -> Response {
    list_in(engine, list, head, query, Style::Cursor).await
}

async fn list_by_page(
    engine: State<Shared>,
    list: Path<String>,
    head: HeaderMap,
    query: Parameters,
) -> Response {
    list_in(engine, list, head, query, Style::Pages).await
}

async fn list_by_link(
    engine: State<Shared>,
    list: Path<String>,
    head: HeaderMap,
    query: Parameters,
) -> Response {
    list_in(engine, list, head, query, Style::Links).await
}

async fn list_in(
    State(engine): State<Shared>,
    Path(list): Path<String>,
    head: HeaderMap,
    Query(query): Parameters,
    style: Style,
) -> Response {
    let asked = Resource::at_path(&list).map_or(Asked::Other, Asked::List);
    answer(&engine, &head, asked, |connection| {
        let resource =
            asked.resource().ok_or_else(|| Problem::not_found(format!("there is no list {list:?}")))?;
        let wanted = Wanted::read(&engine, connection, resource, &query, style)?;
        let world = engine.world();
        let mut page = match wanted.page {
            Some(number) => {
                let skip = (number - 1).saturating_mul(wanted.limit);
                world.numbered_page(connection, resource, wanted.from.modified_after_ms, (skip, wanted.limit))
            }
            None => world.page(connection, resource, wanted.from, wanted.limit),
        };
        drop(world);
        let can = |kind| match kind {
            FaultKind::CursorExpired => wanted.by_cursor,
            FaultKind::CursorRepeats => page.next.is_some(),
            FaultKind::RateLimited
            | FaultKind::ServerError
            | FaultKind::TimeOut
            | FaultKind::BrokenJson
            | FaultKind::Html => true,
        };
        let fault = engine.requests().take(connection, asked, can);
        if let Some((FaultKind::CursorRepeats, _)) = fault {
            page.next = Some(wanted.from);
        }
        let answer = written(&engine, connection, resource, &wanted, &page, style, &head);
        Ok((answer, fault))
    })
    .await
}

async fn one(
    State(engine): State<Shared>,
    Path((list, id)): Path<(String, String)>,
    head: HeaderMap,
) -> Response {
    let asked = Resource::at_path(&list).map_or(Asked::Other, Asked::One);
    answer(&engine, &head, asked, |connection| {
        let resource =
            asked.resource().ok_or_else(|| Problem::not_found(format!("there is no list {list:?}")))?;
        let fault = engine.requests().take(connection, asked, |kind| {
            !matches!(kind, FaultKind::CursorExpired | FaultKind::CursorRepeats)
        });
        let world = engine.world();
        let shelf = world.shelf(connection, resource);
        let record = shelf.and_then(|shelf| shelf.records.values().find(|record| record.id == id));
        let missing = || Problem::not_found(format!("there is no record {id:?} in {list}")).answer();
        Ok((record.map_or_else(missing, |record| json_answer(StatusCode::OK, &record.to_json())), fault))
    })
    .await
}

async fn sync_status(State(engine): State<Shared>, head: HeaderMap) -> Response {
    answer(&engine, &head, Asked::Other, |connection| {
        let world = engine.world();
        let lists = Resource::ALL.iter().filter_map(|resource| {
            let synced_ms = world.shelf(connection, *resource)?.synced_ms;
            Some(json!({
                "resource": resource.path(),
                "status": if synced_ms.is_some() { "completed" } else { "pending" },
                "last_synced_at": synced_ms.map(rfc3339_ms),
            }))
        });
        let lists = Value::from_iter(lists);
        Ok((json_answer(StatusCode::OK, &json!({ "data": lists })), None))
    })
    .await
}

type Made = Result<(Response, Option<(FaultKind, Duration)>), Problem>;

/// Answers a request for whoever has a good token, and counts it.
async fn answer(
    engine: &Engine,
    head: &HeaderMap,
    asked: Asked,
    make: impl FnOnce(&str) -> Made,
) -> Response {
    let token = head.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let connection = token.and_then(|token| engine.world().connection_of(token).map(str::to_owned));
    let Some(connection) = connection else {
        let message = if token.is_some() {
            "the token is unknown, expired or revoked: authorise the connection anew"
        } else {
            "send the connection's token as `Authorization: Bearer …`"
        };
        let whose =
            token.and_then(|token| engine.world().once_of(token).map(str::to_owned)).unwrap_or_default();
        engine.requests().count(&whose, asked, StatusCode::UNAUTHORIZED.as_u16());
        let problem =
            Problem { status: StatusCode::UNAUTHORIZED, code: "unauthorized", message: message.to_owned() };
        let mut answer = problem.answer();
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return answer;
    };
    let (mut answer, fault) = make(&connection).unwrap_or_else(|problem| (problem.answer(), None));
    if let Some((kind, wait)) = fault {
        answer = faulty(answer, kind, wait).await;
    }
    engine.requests().count(&connection, asked, answer.status().as_u16());
    if let Some((FaultKind::TimeOut, wait)) = fault {
        // Counted before: whoever asked may not wait for it.
        tokio::time::sleep(wait).await;
    }
    answer
}

/// What becomes of a good answer.
async fn faulty(good: Response, kind: FaultKind, wait: Duration) -> Response {
    let html = |status, text: &'static str| with_type(status, "text/html; charset=utf-8", text.into());
    match kind {
        FaultKind::RateLimited => {
            let message = "too many requests".to_owned();
            let status = StatusCode::TOO_MANY_REQUESTS;
            let mut answer = Problem { status, code: "rate_limited", message }.answer();
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            answer.headers_mut().insert(RETRY_AFTER, seconds.into());
            answer
        }
        FaultKind::ServerError => html(StatusCode::INTERNAL_SERVER_ERROR, "<h1>Internal Server Error</h1>"),
        FaultKind::TimeOut => html(StatusCode::GATEWAY_TIMEOUT, "<h1>Gateway Time-out</h1>"),
        FaultKind::BrokenJson => {
            let body = axum::body::to_bytes(good.into_body(), usize::MAX).await.unwrap_or_default();
            let half = body.slice(..body.len() / 2);
            with_type(StatusCode::OK, "application/json", half.into())
        }
        FaultKind::Html => html(StatusCode::OK, "<!doctype html><title>Please log in</title>"),
        FaultKind::CursorExpired => {
            let message = "the cursor has expired: begin the list anew".to_owned();
            Problem { status: StatusCode::BAD_REQUEST, code: "cursor_expired", message }.answer()
        }
        FaultKind::CursorRepeats => good,
    }
}

/// What a list's parameters ask for.
struct Wanted {
    from: Cursor,
    limit: usize,
    /// The page's number, where pages have some.
    page: Option<usize>,
    /// It goes on where another page ended.
    by_cursor: bool,
}

impl Wanted {
    fn read(
        engine: &Engine,
        connection: &str,
        resource: Resource,
        query: &[(String, String)],
        style: Style,
    ) -> Result<Self, Problem> {
        let place = if style == Style::Pages { "page" } else { "cursor" };
        let mut given: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, value) in query {
            if ![place, "limit", "modified_after"].contains(&name.as_str()) {
                let message =
                    format!("unknown parameter {name:?}: there are {place}, limit and modified_after");
                return Err(Problem::bad_request(message));
            }
            if given.insert(name, value).is_some() {
                return Err(Problem::bad_request(format!("parameter {name} is there twice")));
            }
        }
        let number = |name: &str, default: usize, max: usize| match given.get(name) {
            None => Ok(default),
            Some(text) => text.parse().ok().filter(|number| (1..=max).contains(number)).ok_or_else(|| {
                Problem::bad_request(format!("{name} is {text:?}: for {} it is 1 to {max}", resource.path()))
            }),
        };
        let limit = number("limit", PAGE_DEFAULT, resource.page_max())?;
        let page = if style == Style::Pages { Some(number("page", 1, usize::MAX)?) } else { None };
        let modified_after_ms = given.get("modified_after").map(|text| {
            let time = text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond);
            time.map_err(|_| {
                let hint = "write RFC 3339, such as 2026-01-05T08:00:00Z, percent-encoded";
                Problem::bad_request(format!("modified_after is {text:?}, which is no time: {hint}"))
            })
        });
        let modified_after_ms = modified_after_ms.transpose()?;
        let begin = Cursor { after: 0, modified_after_ms };
        let cursor = given.get("cursor").map(|text| {
            let cursor = Cursor::read(text, &engine.cursor_key, connection, resource);
            cursor
                .filter(|cursor| modified_after_ms.is_none() || cursor.modified_after_ms == modified_after_ms)
                .ok_or_else(|| {
                    Problem::bad_request("cursor was not given out for this connection, list and filter")
                })
        });
        let cursor = cursor.transpose()?;
        Ok(Self { from: cursor.unwrap_or(begin), limit, page, by_cursor: cursor.is_some() })
    }
}

/// A page as the API writes it.
fn written(
    engine: &Engine,
    connection: &str,
    resource: Resource,
    wanted: &Wanted,
    page: &Page,
    style: Style,
    head: &HeaderMap,
) -> Response {
    let total = resource.has_total().then_some(page.total);
    let next = page.next.map(|cursor| cursor.text(&engine.cursor_key, connection, resource));
    let mut body = json!({ "data": page.records, "total": total });
    match (style, next) {
        (Style::Cursor, Some(next)) => body["next_cursor"] = next.into(),
        (Style::Links, next) => {
            let mut answer = json_answer(StatusCode::OK, &page.records.as_slice().into());
            if let Some(next) = next {
                let host = head.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
                let (path, limit) = (resource.path(), wanted.limit);
                let link =
                    format!("<http://{host}/api/links/v1/{path}?limit={limit}&cursor={next}>; rel=\"next\"");
                if let Ok(link) = HeaderValue::from_str(&link) {
                    answer.headers_mut().insert(LINK, link);
                }
            }
            return answer;
        }
        (Style::Cursor, None) | (Style::Pages, _) => {}
    }
    json_answer(StatusCode::OK, &body)
}

/// An answer in JSON.
pub(crate) fn json_answer(status: StatusCode, body: &Value) -> Response {
    with_type(status, "application/json", body.to_string().into())
}

fn with_type(status: StatusCode, kind: &'static str, body: Body) -> Response {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
