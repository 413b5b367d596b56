//! What a failure of MongoDB means: try again, refuse the event, or stop until somebody acts.
//!
//! Tells codes and their names, never a server's message: that may hold a command, and so an event.

use mongodb::error::{Error, ErrorKind, InsertManyError, WriteFailure};

use super::connect::Server;
use crate::sink::SinkError;

/// A unique index has the key already.
pub(super) const DUPLICATE: i32 = 11000;

/// What to do about an error's code.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Retry,
    Refused,
    /// With what is to be done.
    Halt(&'static str),
}

/// Whether a document with this key is there.
pub(super) fn is_duplicate(error: &Error) -> bool {
    let by_write =
        matches!(&*error.kind, ErrorKind::Write(WriteFailure::WriteError(error)) if error.code == DUPLICATE);
    by_write || matches!(&*error.kind, ErrorKind::Command(error) if error.code == DUPLICATE)
}

impl Server {
    /// What a failure means.
    pub(super) fn failed(&self, error: &Error) -> SinkError {
        let retry = |text: String| SinkError::Retry(format!("{self}: {text}"));
        match &*error.kind {
            ErrorKind::Command(cause) => self.answered(cause.code, &cause.code_name),
            ErrorKind::Write(WriteFailure::WriteError(cause)) => {
                self.answered(cause.code, cause.code_name.as_deref().unwrap_or_default())
            }
            ErrorKind::Write(WriteFailure::WriteConcernError(cause)) => self.not_durable(Some(cause.code)),
            ErrorKind::InsertMany(InsertManyError { write_concern_error: Some(cause), .. }) => {
                self.not_durable(Some(cause.code))
            }
            ErrorKind::InsertMany(InsertManyError { write_errors: Some(causes), .. })
                if !causes.is_empty() =>
            {
                let first = causes.iter().min_by_key(|cause| cause.index);
                let (code, name) =
                    first.map_or((0, ""), |c| (c.code, c.code_name.as_deref().unwrap_or_default()));
                self.answered(code, name)
            }
            ErrorKind::Authentication { .. } => SinkError::Halt(format!(
                "{self}: the server does not let this user in: correct user, password and authSource in \
                 sink.mongodb.url"
            )),
            // The client says it in words alone.
            ErrorKind::ServerSelection { message, .. } if message.contains("certificate") => {
                self.unsafe_tls()
            }
            ErrorKind::InvalidTlsConfig { .. } => self.unsafe_tls(),
            ErrorKind::Io(cause) if cause.kind() == std::io::ErrorKind::InvalidData => self.unsafe_tls(),
            ErrorKind::Io(cause) => retry(cause.to_string()),
            ErrorKind::ServerSelection { .. } => retry("no server that takes writes answers".to_owned()),
            ErrorKind::IncompatibleServer { .. } => {
                SinkError::Halt(format!("{self}: the server lacks what Hookline needs: MongoDB 4.2 or later"))
            }
            ErrorKind::InvalidArgument { .. }
            | ErrorKind::Bson(_)
            | ErrorKind::BsonDeserialization(_)
            | ErrorKind::BsonSerialization(_) => {
                SinkError::Halt(format!("{self}: a setting or a document is not what the client takes"))
            }
            ErrorKind::InsertMany(_)
            | ErrorKind::BulkWrite(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::DnsResolve { .. }
            | ErrorKind::InvalidResponse { .. }
            | ErrorKind::Internal { .. }
            | ErrorKind::Shutdown
            | ErrorKind::SessionsNotSupported
            | ErrorKind::Transaction { .. }
            | ErrorKind::MissingResumeToken
            | ErrorKind::GridFs(_)
            | ErrorKind::Custom(_)
            | _ => retry("the connection failed".to_owned()),
        }
    }

    /// A document is not as Hookline writes it.
    pub(super) fn other_collections(&self) -> SinkError {
        SinkError::Halt(format!(
            "{self}: the collections are not as Hookline made them; restore them, or name an empty database \
             (sink.mongodb.url) and rebuild"
        ))
    }

    /// A write that may be undone by a failover.
    pub(super) fn not_durable(&self, code: Option<i32>) -> SinkError {
        let code = code.unwrap_or_default();
        SinkError::Retry(format!("{self}: a write did not reach most of the members in time (code {code})"))
    }

    /// What a write to a collection failed by, whose event stands in hookline_events already.
    pub(super) fn guarded_failed(&self, collection: &str, code: i32) -> SinkError {
        match self.answered(code, "") {
            SinkError::Refused(message) => SinkError::Halt(format!(
                "{message}: a validator or an index on {collection} forbids what hookline_events took: move it \
                 there, where it dead-letters the event"
            )),
            error @ (SinkError::Retry(_)
            | SinkError::Waits(_)
            | SinkError::Fenced { .. }
            | SinkError::Halt(_)) => error,
        }
    }

    fn unsafe_tls(&self) -> SinkError {
        SinkError::Halt(format!(
            "{self}: no safe TLS connection: let tlsCAFile in the URL, or SSL_CERT_FILE, name the file with the CA \
             certificate to trust, and the URL name the host as the certificate does"
        ))
    }

    fn answered(&self, code: i32, name: &str) -> SinkError {
        let text = match name {
            "" => format!("{self}: code {code}"),
            name => format!("{self}: {name} (code {code})"),
        };
        match meaning(code) {
            Meaning::Retry => SinkError::Retry(text),
            Meaning::Refused => SinkError::Refused(text),
            Meaning::Halt(way_out) => SinkError::Halt(format!("{text}: {way_out}")),
        }
    }
}

/// The server's error codes (`error_codes.yml`).
fn meaning(code: i32) -> Meaning {
    const LOGIN: &str = "correct user, password and authSource in sink.mongodb.url";
    const PRIVILEGE: &str = "grant the user the role readWrite on the database";
    const FEATURE: &str = "the server, or something that only speaks its protocol, lacks what Hookline needs: \
                           MongoDB 4.2 or later";
    match code {
        // AuthenticationFailed, and Atlas's own.
        18 | 8000 => Meaning::Halt(LOGIN),
        // Unauthorized.
        13 => Meaning::Halt(PRIVILEGE),
        // BadValue, FailedToParse, TypeMismatch, IllegalOperation, CommandNotFound, NotImplemented.
        2 | 9 | 14 | 20 | 59 | 238 => Meaning::Halt(FEATURE),
        // A unique index, DocumentValidationFailure, BSONObjectTooLarge, KeyTooLong, and the object's own depth.
        11000 | 121 | 10334 | 17280 | 17419 | 17420 => Meaning::Refused,
        // Elections, shutdowns, time-outs, no disk: what passes. Unknown ones too: to try again loses nothing.
        _ => Meaning::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        // HostUnreachable, NetworkTimeout, MaxTimeMSExpired, WriteConcernFailed, PrimarySteppedDown,
        // InterruptedAtShutdown, NotWritablePrimary, OutOfDiskSpace.
        for code in [6, 89, 50, 64, 189, 11600, 10107, 14031, 999_999] {
            assert_eq!(meaning(code), Meaning::Retry, "{code}");
        }
    }

    #[test]
    fn what_somebody_must_change_stops_the_pipeline() {
        for code in [13, 18, 8000, 59, 2] {
            assert!(matches!(meaning(code), Meaning::Halt(_)), "{code}");
        }
    }

    #[test]
    fn what_the_data_is_to_blame_for_is_refused() {
        for code in [11000, 121, 10334, 17280] {
            assert_eq!(meaning(code), Meaning::Refused, "{code}");
        }
    }
}
