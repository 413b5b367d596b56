//! The control API, `/control/…`, for whoever runs the sandbox: it needs no token, and gives out all of them. Bodies are
//! JSON with the named keys and no others.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /control/state` | how far the scenario is: [`State`](super::State) |
//! | `GET /control/scenarios` | the scenarios' names and what each shows |
//! | `GET /control/expected` | what must be in the sink once all is over: [`Expected`](super::Expected) |
//! | `GET /control/requests` | what was asked of the API, by connection: [`RequestCounts`](super::RequestCounts) |
//! | `GET /control/tokens` | the token that was given out last, by connection |
//! | `POST /control/receiver` | `{"url"}`: where webhooks go; until it is known, they wait |
//! | `POST /control/scenario` | `{"name", "seed"?}`: plays a scenario; 409 while another runs |
//! | `POST /control/status` | `{"connection", "status"}`: such as `reauthorization_needed`, which refuses the token, and `online`, which then brings a new one |
//! | `POST /control/change` | `{"connection", "resource", "kind", "id"?, "lost"?}`: changes one record |
//! | `POST /control/sync` | `{"connection", "resource"}`: sends `sync.completed` |
//! | `POST /control/garbage` | `{"connection", "kind"}`: sends something `forged`, `unsigned` or `broken_json` |
//! | `POST /control/fault` | `{"kind", "requests", "connection"?, "resource"?, "on"?, "for"?}`: the API fails so often |

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::json_answer;
use super::engine::{Engine, Refused};
use super::play::Garbage;
use super::resource::Resource;
use super::scenario::Scenario;
use super::world::Status;

type Shared = State<Arc<Engine>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Receiver {
    url: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    seed: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewStatus {
    connection: String,
    status: Status,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Synchronised {
    connection: String,
    resource: Resource,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spoilt {
    connection: String,
    kind: Garbage,
}

/// The control API's routes.
pub(crate) fn router() -> Router<Arc<Engine>> {
    Router::new()
        .route("/control/state", get(async |State(engine): Shared| found(&engine.state())))
        .route("/control/scenarios", get(async || found(&scenarios())))
        .route("/control/expected", get(async |State(engine): Shared| found(&engine.expected())))
        .route("/control/requests", get(async |State(engine): Shared| found(engine.requests().counts())))
        .route("/control/tokens", get(async |State(engine): Shared| found(&engine.tokens())))
        .route("/control/receiver", post(receiver))
        .route("/control/scenario", post(scenario))
        .route("/control/status", post(status))
        .route("/control/change", post(change))
        .route("/control/sync", post(sync))
        .route("/control/garbage", post(garbage))
        .route("/control/fault", post(fault))
}

fn scenarios() -> Value {
    Scenario::all().into_iter().map(|scenario| (scenario.name, Value::from(scenario.shows))).collect()
}

async fn receiver(State(engine): Shared, body: Bytes) -> Response {
    done(&body, |Receiver { url }| {
        engine.set_receiver(&url);
        Ok(json!({}))
    })
}

async fn scenario(State(engine): Shared, body: Bytes) -> Response {
    done(&body, |Named { name, seed }| {
        let mut scenario = Scenario::find(&name).map_err(|error| Refused::Invalid(error.to_string()))?;
        scenario.seed = seed.unwrap_or(scenario.seed);
        engine.play(scenario)?;
        Ok(json!({}))
    })
}

async fn status(State(engine): Shared, body: Bytes) -> Response {
    done(&body, |NewStatus { connection, status }| {
        engine.set_status(&connection, status)?;
        Ok(json!({ "token": engine.tokens().get(&connection) }))
    })
}

async fn change(State(engine): Shared, body: Bytes) -> Response {
    done(&body, |change| Ok(json!({ "id": engine.change(&change)? })))
}

async fn sync(State(engine): Shared, body: Bytes) -> Response {
    done(&body, |Synchronised { connection, resource }| {
        engine.sync(&connection, resource)?;
        Ok(json!({}))
    })
}

async fn garbage(State(engine): Shared, body: Bytes) -> Response {
    done(&body, |Spoilt { connection, kind }| {
        engine.garbage(&connection, kind)?;
        Ok(json!({}))
    })
}

async fn fault(State(engine): Shared, body: Bytes) -> Response {
    done(&body, |fault| {
        engine.fault(&fault)?;
        Ok(json!({}))
    })
}

fn found(what: &impl Serialize) -> Response {
    match serde_json::to_value(what) {
        Ok(value) => json_answer(StatusCode::OK, &value),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn done<T: DeserializeOwned>(body: &[u8], act: impl FnOnce(T) -> Result<Value, Refused>) -> Response {
    let wanted = match serde_json::from_slice(body) {
        Ok(wanted) => wanted,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("the body: {error}")),
    };
    match act(wanted) {
        Ok(value) => json_answer(StatusCode::OK, &value),
        Err(refused) => {
            let status = match refused {
                Refused::Busy(_) => StatusCode::CONFLICT,
                Refused::NoConnection(_) | Refused::NoRecord { .. } => StatusCode::NOT_FOUND,
                Refused::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
                Refused::Invalid(_) => StatusCode::BAD_REQUEST,
            };
            problem(status, &refused.to_string())
        }
    }
}

fn problem(status: StatusCode, message: &str) -> Response {
    json_answer(status, &json!({ "error": { "message": message } }))
}
