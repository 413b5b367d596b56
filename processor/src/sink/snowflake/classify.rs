//! What a failure of Snowflake means: try again, refuse the event, or stop until somebody acts.
//!
//! Where the data is to blame, the code is told and not the message, which repeats values.

use std::error::Error as _;
use std::{io, iter};

use snowflake_connector_rs::{Error, ErrorKind};

use super::connect::Server;
use crate::sink::SinkError;

const TABLES: &str = "the tables are not as Hookline made them, or the role lacks a privilege: SELECT, INSERT and \
                      UPDATE on them, to make them CREATE TABLE on the schema. Else restore them, or name an empty \
                      schema (sink.snowflake.schema) and rebuild";

/// What to do about an error's code.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Retry,
    Refused,
    /// With what is to be done.
    Halt(&'static str),
}

/// The session is over, and what was asked in it was not done.
pub(super) fn has_expired(error: &Error) -> bool {
    error.is_session_expired()
        || matches!(error.snowflake_code(), Some("390104" | "390111" | "390112" | "390114" | "390115"))
}

impl Server {
    /// What a failure means.
    pub(super) fn failed(&self, error: &Error) -> SinkError {
        const LOGIN: &str = "correct user and private_key or password of sink.snowflake, and let that user in from \
                             this host, without a second factor";
        const KEY: &str = "sink.snowflake.private_key cannot be used: it is an RSA key in PEM as PKCS #8 (`BEGIN \
                           PRIVATE KEY`, or `BEGIN ENCRYPTED PRIVATE KEY` with its private_key_passphrase)";
        match error.kind() {
            ErrorKind::Server => self.answered(error),
            ErrorKind::Auth => SinkError::Halt(match error.snowflake_message() {
                Some(message) => format!("{self}: {}: {LOGIN}", one_line(message)),
                None => format!("{self}: {KEY}"),
            }),
            ErrorKind::SessionExpired => SinkError::Retry(format!("{self}: the session has expired")),
            ErrorKind::Network | ErrorKind::Timeout => self.not_answered(error),
            ErrorKind::Config | ErrorKind::BindEncode | ErrorKind::Decode => SinkError::Halt(format!(
                "{self}: the client takes no {:?}: a defect of Hookline, please report it",
                error.kind()
            )),
            ErrorKind::Protocol | ErrorKind::Cancelled | ErrorKind::Internal | ErrorKind::Other | _ => {
                SinkError::Retry(format!("{self}: an answer that is none ({:?})", error.kind()))
            }
        }
    }

    /// A role, warehouse or schema cannot be used. `key` is its setting's.
    pub(super) fn not_usable(&self, error: &Error, what: &str, name: &str, key: &str) -> SinkError {
        if error.kind() != ErrorKind::Server || has_expired(error) {
            return self.failed(error);
        }
        let code = error.snowflake_code().unwrap_or_default();
        let message = one_line(error.snowflake_message().unwrap_or_default());
        SinkError::Halt(format!(
            "{self}: {what} {name} cannot be used: {message} (code {code}): correct sink.snowflake.{key}, spelled as \
             Snowflake shows it (mostly in capitals), or make it and grant USAGE on it"
        ))
    }

    /// A column or a row is not what it was made as.
    pub(super) fn other_tables(&self) -> SinkError {
        SinkError::Halt(format!("{self}: {TABLES}"))
    }

    fn answered(&self, error: &Error) -> SinkError {
        let code = error.snowflake_code().unwrap_or_default();
        let message = one_line(error.snowflake_message().unwrap_or_default());
        match meaning(code) {
            Meaning::Retry => SinkError::Retry(format!("{self}: {message} (code {code})")),
            Meaning::Refused => SinkError::Refused(format!("{self}: {} (code {code})", by_data(code))),
            Meaning::Halt(way_out) => SinkError::Halt(format!("{self}: {message} (code {code}): {way_out}")),
        }
    }

    fn not_answered(&self, error: &Error) -> SinkError {
        let causes: Vec<_> = iter::successors(error.source(), |&cause| cause.source()).collect();
        if let Some(cause) = causes.iter().find(|cause| is_unsafe_tls(**cause)) {
            return SinkError::Halt(format!(
                "{self}: no safe TLS connection ({cause}): let SSL_CERT_FILE name the file with the CA certificate \
                 to trust, and sink.snowflake.url name the host as the certificate does"
            ));
        }
        // `HTTP 503: `, and what was answered, which may repeat the request.
        let text = error.to_string();
        let text = text.split(':').next().unwrap_or_default();
        let status = text.strip_prefix("HTTP ").and_then(|status| status.parse().ok());
        match status {
            Some(413) => SinkError::Refused(format!("{self}: a batch larger than it takes (HTTP 413)")),
            Some(400..=407 | 409..=412 | 414..=428) => SinkError::Halt(format!(
                "{self}: {text}: there is no such account, or this \
                 host may not reach it: correct sink.snowflake.account or sink.snowflake.url"
            )),
            _ => SinkError::Retry(
                causes
                    .last()
                    .map_or_else(|| format!("{self}: {text}"), |cause| format!("{self}: {text}: {cause}")),
            ),
        }
    }
}

/// TLS is told by a kind of I/O errors, which others may be wrapped around.
fn is_unsafe_tls(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|cause| {
        let inner = cause.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
        cause.kind() == io::ErrorKind::InvalidData || inner.is_some_and(is_unsafe_tls)
    })
}

/// Error codes as Snowflake's drivers and its manual have them; the others may pass by themselves.
fn meaning(code: &str) -> Meaning {
    const DATABASE: &str = "make the database and the schema, or correct sink.snowflake.database and .schema";
    const WAREHOUSE: &str = "let the warehouse resume (AUTO_RESUME, a resource monitor's quota), or name another in \
                             sink.snowflake.warehouse";
    const PRIVILEGE: &str = "grant the role what it lacks: USAGE on warehouse, database and schema; SELECT, INSERT \
                             and UPDATE on the tables, on your own also DELETE; to make Hookline's, CREATE TABLE on \
                             the schema";
    const LOGIN: &str = "let the user of sink.snowflake in";
    match code.parse::<i32>() {
        // No warehouse, or one that may not resume.
        Ok(606 | 90073) => Meaning::Halt(WAREHOUSE),
        Ok(90105 | 90106) => Meaning::Halt(DATABASE),
        Ok(3001..=3999) => Meaning::Halt(PRIVILEGE),
        // What does not compile: an object, a column or a type is not what it was, or may not be seen.
        Ok(900..=2999) => Meaning::Halt(TABLES),
        // While it runs: a value that is not of the column's type, too long, too large, missing; what a policy raises.
        // But two rows of hookline_entities for one entity (90) are nobody's event.
        Ok(100_090) => Meaning::Halt(TABLES),
        Ok(100_000..=100_999) => Meaning::Refused,
        Ok(390_100..=390_999) if !matches!(code, "390104" | "390111" | "390112" | "390114" | "390115") => {
            Meaning::Halt(LOGIN)
        }
        // Lock and statement time-outs (625, 630), statements that were stopped (604), a service that is full or
        // failing. To try again loses nothing and shows as a growing lag; to refuse would drop good events.
        _ => Meaning::Retry,
    }
}

/// What the data is to blame for, without the data.
fn by_data(code: &str) -> &'static str {
    match code {
        "100072" => "no value where a column must have one",
        "100078" | "100145" => "a value longer than its column",
        "100069" | "100082" => "a value larger than Snowflake takes",
        _ => "a value that a column cannot hold",
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        for code in ["000604", "000625", "000630", "000603", "261000", "390112", "390114", "9999999", ""] {
            assert_eq!(meaning(code), Meaning::Retry, "{code}");
        }
    }

    #[test]
    fn what_somebody_must_change_stops_the_pipeline() {
        for code in ["000606", "000904", "001003", "002003", "002043", "003001", "090105", "100090", "390144"]
        {
            assert!(matches!(meaning(code), Meaning::Halt(_)), "{code}");
        }
    }

    #[test]
    fn what_the_data_is_to_blame_for_is_refused() {
        for code in ["100035", "100038", "100046", "100069", "100072", "100078", "100082", "100145"] {
            assert_eq!(meaning(code), Meaning::Refused, "{code}");
        }
    }
}
