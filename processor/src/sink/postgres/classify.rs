//! What a failure of PostgreSQL means: try again, refuse the event, or stop until somebody acts.
//!
//! Uses code and message only: DETAIL, HINT and CONTEXT may hold an event's data.

use std::error::Error as _;
use std::io;

use tokio_postgres::error::DbError;

use super::connect::Server;
use crate::sink::{SinkError, rows};

/// The primary key of hookline_events.
const EVENTS_PKEY: &str = "hookline_events_pkey";

/// What a failure means.
pub(super) fn failed(server: &Server, error: &tokio_postgres::Error) -> SinkError {
    error.as_db_error().map_or_else(|| without_answer(server, error), |cause| answered(server, cause))
}

/// What a failure of a statement on a table of the user's means. Of the message nothing is told: it may repeat a
/// value that does not fit.
pub(super) fn failed_in(server: &Server, table: &str, error: &tokio_postgres::Error) -> SinkError {
    let Some(cause) = error.as_db_error() else { return failed(server, error) };
    let code = cause.code().code();
    let what = match (cause.constraint(), cause.column(), code) {
        (Some(constraint), _, _) => format!("constraint `{constraint}` forbids it"),
        (None, Some(column), _) => format!("column `{column}` takes no null"),
        (None, None, "22001") => "a text is longer than its column".to_owned(),
        (None, None, "22003") => "a number is beyond its column's range".to_owned(),
        (None, None, "22021" | "22P05") => "a text has a character that its column does not take".to_owned(),
        (None, None, _) => "the server refuses it".to_owned(),
    };
    let text = format!("{server}: table `{table}`: {what} (SQLSTATE {code})");
    match meaning(code) {
        Meaning::Retry => SinkError::Retry(format!("{server}: table `{table}`: {}", cause.message())),
        Meaning::Refused => SinkError::Refused(text),
        Meaning::Halt(_) => SinkError::Halt(format!(
            "{text}: the table is not as it was when it was checked, or the role lacks a right on it (SELECT, \
             INSERT, UPDATE, DELETE)"
        )),
    }
}

/// What to do about an SQLSTATE.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Retry,
    Refused,
    /// With what is to be done.
    Halt(&'static str),
}

fn answered(server: &Server, cause: &DbError) -> SinkError {
    let code = cause.code().code();
    if code == "23505" && cause.constraint() == Some(EVENTS_PKEY) {
        return rows::occupied(&server.to_string());
    }
    let text = format!("{server}: {} (SQLSTATE {code})", cause.message());
    match meaning(code) {
        Meaning::Retry => SinkError::Retry(text),
        Meaning::Refused => SinkError::Refused(text),
        Meaning::Halt(way_out) => SinkError::Halt(format!("{text}: {way_out}")),
    }
}

/// Appendix A of PostgreSQL's manual, by class; a code before its class where they differ.
fn meaning(code: &str) -> Meaning {
    const LOGIN: &str = "correct user and password in sink.postgres.url, or let the role in (pg_hba.conf)";
    const DATABASE: &str = "create the database, or name another in sink.postgres.url";
    const TABLES: &str = "the tables are not as Hookline made them; restore them, or give it an empty schema \
                          (sink.postgres.schema) and rebuild";
    const PRIVILEGE: &str = "grant the role what it lacks: USAGE on the schema, SELECT, INSERT and UPDATE \
                             on its tables; to make them, CREATE on the schema, and on the database to \
                             make that";
    const CORRUPT: &str = "the database is damaged; restore it from a backup";
    const FEATURE: &str = "the server, or a table's setting, lacks what Hookline needs: PostgreSQL 12 or \
                           later, and no row-level security for this role";
    const DEFECT: &str = "this is a defect of Hookline: please report it";
    match (code, code.get(..2).unwrap_or_default()) {
        // A user's row-level policy or trigger may check the row's data, but a privilege is not the row's.
        ("42501", _) => Meaning::Halt(PRIVILEGE),
        // The role, the database or the schema is wrong or missing.
        (_, "28") => Meaning::Halt(LOGIN),
        (_, "3D") => Meaning::Halt(DATABASE),
        (_, "3F") => Meaning::Halt(TABLES),
        // A pooler lost or mixed up prepared statements: another connection prepares them anew.
        ("42P05", _) | (_, "26") => Meaning::Retry,
        // Missing or changed tables and columns, and everything else of syntax and access rules.
        (_, "42") => Meaning::Halt(TABLES),
        // A column has another type than the one that COPY was given.
        ("22P03", _) => Meaning::Halt(TABLES),
        // No COPY under row-level security; another product that speaks the protocol.
        (_, "0A") => Meaning::Halt(FEATURE),
        // One statement may touch a row once: the batch names each entity once.
        (_, "21") => Meaning::Halt(DEFECT),
        (_, "XX") if code == "XX001" || code == "XX002" => Meaning::Halt(CORRUPT),
        // The data: what a type cannot hold, what a constraint or a view's check forbids, what is too large
        // for an index or a row, and what a user's trigger raises.
        (_, "22" | "23" | "44" | "54" | "P0") => Meaning::Refused,
        // Time: the connection is lost (08); deadlocks and serialization (40); a standby, or a transaction
        // that was idle for too long (25); resources, disk, memory, connections (53); locks and states that
        // pass (55); shutdown, restart, time-outs, cancelled by an administrator (57); the server's disk
        // (58); the server's own surprises (XX).
        (_, "08" | "25" | "40" | "53" | "55" | "57" | "58" | "XX") => Meaning::Retry,
        // Unknown: to try again loses nothing and shows as a growing lag. To refuse would drop good events,
        // and to stop would stop for what may pass.
        _ => Meaning::Retry,
    }
}

/// A failure that is not the server's answer to a statement. The client names its kinds in words alone.
fn without_answer(server: &Server, error: &tokio_postgres::Error) -> SinkError {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    let kind = error.to_string();
    match kind.as_str() {
        // No password given where the server asks for one, or no host.
        "invalid configuration" | "invalid connection string" => SinkError::Halt(format!(
            "{server}: sink.postgres.url lacks the host, or the password that the server asks for"
        )),
        // The server could not prove that it knows the password, or asks in a way that this client lacks.
        "authentication error" => SinkError::Halt(format!(
            "{server}: server and client do not agree on a proof of the password, or the server's is wrong: \
             let pg_hba.conf ask for scram-sha-256, and check that the URL names the right server"
        )),
        "error performing TLS handshake" => match cause {
            // Cut in the middle.
            Some(cause) if cause.kind() != io::ErrorKind::InvalidData => {
                SinkError::Retry(format!("{server}: {kind}: {}", cause.kind()))
            }
            Some(cause) => SinkError::Halt(format!(
                "{server}: no safe TLS connection ({cause}): let SSL_CERT_FILE name the file with the CA \
                 certificate to trust, and the URL name the host as the certificate does; or go without TLS \
                 by sslmode=disable"
            )),
            None => SinkError::Halt(format!(
                "{server}: the server offers no TLS, or the URL names no host: enable it there, or go \
                 without by sslmode=disable"
            )),
        },
        // A column of another type than Hookline made.
        kind if kind.starts_with("error deserializing column")
            || kind.starts_with("error serializing parameter") =>
        {
            SinkError::Halt(format!(
                "{server}: {kind}: the tables are not as Hookline made them; restore them, or give it an \
                 empty schema (sink.postgres.schema) and rebuild"
            ))
        }
        // The connection: refused, reset, closed, timed out, the name not resolved, an answer that is none.
        kind => match cause {
            Some(cause) => SinkError::Retry(format!("{server}: {kind}: {cause}")),
            None => SinkError::Retry(format!("{server}: {kind}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        let codes = [
            "08006", "08001", "08004", "08P01", "25006", "25P02", "25P03", "26000", "40001", "40P01",
            "53100", "53200", "53300", "55P03", "55006", "57014", "57P01", "57P02", "57P03", "57P05",
            "58030", "XX000", "42P05", "99999", "",
        ];
        for code in codes {
            assert_eq!(meaning(code), Meaning::Retry, "{code}");
        }
    }

    #[test]
    fn what_somebody_must_change_stops_the_pipeline() {
        for code in [
            "28P01", "28000", "3D000", "3F000", "42P01", "42501", "42703", "42804", "21000", "0A000",
            "22P03", "XX001",
        ] {
            assert!(matches!(meaning(code), Meaning::Halt(_)), "{code}");
        }
    }

    #[test]
    fn what_the_data_is_to_blame_for_is_refused() {
        for code in [
            "22021", "22P05", "22008", "22003", "23502", "23503", "23505", "23514", "44000", "54000", "P0001",
        ] {
            assert_eq!(meaning(code), Meaning::Refused, "{code}");
        }
    }
}
