//! What a failure of MySQL means: try again, refuse the event, or stop until somebody acts.
//!
//! Of messages that name a row's values, only what follows the values is told.

use std::io;

use mysql_async::{DriverError, Error, IoError, ServerError, TlsError};

use super::connect::Server;
use crate::sink::{SinkError, rows};

const TABLES: &str = "the tables are not as Hookline made them; restore them, or name an empty database \
                      (sink.mysql.url) and rebuild";

/// What to do about an error's code.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Retry,
    Refused,
    /// With what is to be done.
    Halt(&'static str),
}

impl Server {
    /// What a failure means.
    pub(super) fn failed(&self, error: &Error) -> SinkError {
        match error {
            Error::Server(cause) => self.answered(cause),
            Error::Io(IoError::Io(cause)) if cause.kind() == io::ErrorKind::InvalidData => {
                self.unsafe_tls(cause)
            }
            Error::Io(IoError::Tls(cause)) => self.tls_failed(cause),
            // Refused, reset, closed, timed out, the name not resolved.
            Error::Io(IoError::Io(cause)) => SinkError::Retry(format!("{self}: {cause}")),
            Error::Driver(cause) => self.driver_failed(cause),
            Error::Other(_) => SinkError::Retry(format!("{self}: the client failed")),
            Error::Url(_) => SinkError::Halt(format!("{self}: sink.mysql.url cannot be read")),
        }
    }

    /// What a failure of a statement on a table of the user's means.
    pub(super) fn failed_in(&self, table: &str, error: &Error) -> SinkError {
        let Error::Server(ServerError { code, state, message }) = error else { return self.failed(error) };
        let text = format!(
            "{self}: table `{table}`: {} (error {code}, SQLSTATE {state})",
            without_values(*code, message)
        );
        match meaning(*code, state) {
            Meaning::Retry => SinkError::Retry(text),
            Meaning::Refused => SinkError::Refused(text),
            Meaning::Halt(_) => SinkError::Halt(format!(
                "{text}: the table is not as it was when it was checked, or the user lacks a right on it (SELECT, \
                 INSERT, UPDATE, DELETE)"
            )),
        }
    }

    /// A column or a row is not what it was made as.
    pub(super) fn other_tables(&self) -> SinkError {
        SinkError::Halt(format!("{self}: {TABLES}"))
    }

    fn answered(&self, cause: &ServerError) -> SinkError {
        let ServerError { code, state, message } = cause;
        // Named `PRIMARY` by MariaDB, with its table by MySQL. That of hookline_entities is upserted, and those
        // of the others are not written to with an event's data.
        if *code == 1062 && (message.ends_with("'PRIMARY'") || message.ends_with("'hookline_events.PRIMARY'"))
        {
            return rows::occupied(&self.to_string());
        }
        let text = format!("{self}: {} (error {code}, SQLSTATE {state})", without_values(*code, message));
        match meaning(*code, state) {
            Meaning::Retry => SinkError::Retry(text),
            Meaning::Refused => SinkError::Refused(text),
            Meaning::Halt(way_out) => SinkError::Halt(format!("{text}: {way_out}")),
        }
    }

    fn unsafe_tls(&self, cause: &dyn std::error::Error) -> SinkError {
        SinkError::Halt(format!(
            "{self}: no safe TLS connection ({cause}): let SSL_CERT_FILE name the file with the CA certificate \
             to trust, and the URL name the host as the certificate does; or go without TLS by \
             ssl-mode=disabled"
        ))
    }

    fn tls_failed(&self, cause: &TlsError) -> SinkError {
        self.unsafe_tls(cause)
    }

    fn driver_failed(&self, cause: &DriverError) -> SinkError {
        match cause {
            DriverError::NoClientSslFlagFromServer => SinkError::Halt(format!(
                "{self}: the server offers no TLS: enable it there, or go without by ssl-mode=disabled"
            )),
            DriverError::UnknownAuthPlugin { .. }
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::CleartextPluginDisabled => SinkError::Halt(format!(
                "{self}: server and client do not agree on a proof of the password: let the user have \
                 caching_sha2_password or mysql_native_password"
            )),
            // What a value holds is not told.
            DriverError::FromValue { .. } | DriverError::FromRow { .. } => self.other_tables(),
            DriverError::Params(_)
            | DriverError::MixedParams
            | DriverError::StmtParamsMismatch { .. }
            | DriverError::StmtParamsNumberExceedsLimit { .. }
            | DriverError::NestedTransaction
            | DriverError::BulkExecute(_) => {
                SinkError::Halt(format!("{self}: {cause} This is a defect of Hookline: please report it"))
            }
            // Cut off, or an answer that is none.
            DriverError::ConnectionClosed
            | DriverError::PacketOutOfOrder
            | DriverError::PoolDisconnected
            | DriverError::UnexpectedPacket { .. }
            | DriverError::PacketTooLarge
            | DriverError::BadCompressedPacketHeader
            | DriverError::CantParseServerVersion { .. }
            | DriverError::ReadOnlyTransNotSupported
            | DriverError::NamedPipesDisabled
            | DriverError::LocalInfile(_)
            | DriverError::NoKeyFound
            | DriverError::InvalidParsecSalt => SinkError::Retry(format!("{self}: {cause}")),
        }
    }
}

/// Error codes as MySQL and MariaDB share them; else the SQLSTATE's class.
fn meaning(code: u16, state: &str) -> Meaning {
    const LOGIN: &str = "correct user and password in sink.mysql.url, and let that user in from this host";
    const DATABASE: &str = "create the database, or name another in sink.mysql.url";
    const PRIVILEGE: &str = "grant the user what it lacks on the database: SELECT, INSERT and UPDATE; to make \
                             the tables, CREATE and INDEX";
    const BINLOG: &str = "let the server write its binary log by rows (binlog_format = ROW)";
    match code {
        // A password that is wrong, expired or locked; a host that may not come in.
        1045 | 1130 | 1251 | 1698 | 1820 | 1862 | 3118 | 3159 | 4151 => Meaning::Halt(LOGIN),
        1049 => Meaning::Halt(DATABASE),
        1044 | 1142 | 1143 | 1227 | 1370 => Meaning::Halt(PRIVILEGE),
        1665 => Meaning::Halt(BINLOG),
        // Columns that somebody added without a default; what a trigger or view refers to is gone.
        1364 | 1356 | 1360 | 1423 | 1449 => Meaning::Halt(TABLES),
        // The data: too long, out of range, not of the column's type or characters, no JSON where a generated
        // column wants it; a key, a foreign key, a CHECK that somebody added; what a trigger raises.
        1048 | 1062 | 1118 | 1169 | 1216 | 1217 | 1264 | 1265 | 1292 | 1366 | 1367 | 1406 | 1411 | 1441
        | 1451 | 1452 | 1644 | 1690 | 3140 | 3141 | 3157 | 3819 | 4025 | 4038 => Meaning::Refused,
        _ => match state.get(..2).unwrap_or_default() {
            "22" | "23" | "44" | "45" => Meaning::Refused,
            "28" => Meaning::Halt(LOGIN),
            "3D" => Meaning::Halt(DATABASE),
            // Missing or changed tables and columns, and everything else of syntax and access rules. But
            // connection limits and an end by an administrator have class 42 or 70 as well.
            "42" if !matches!(code, 1203 | 1226) => Meaning::Halt(TABLES),
            // Lock time-outs and deadlocks (1205, 1213), a server that is full, read-only, going down or in
            // another group, a statement that was stopped. To try again loses nothing and shows as a growing
            // lag; to refuse would drop good events, and to stop would stop for what may pass.
            _ => Meaning::Retry,
        },
    }
}

/// The message; of those that repeat a value, what follows it: the column's or the key's name.
fn without_values(code: u16, message: &str) -> &str {
    let after = |word: &str| message.rfind(word).and_then(|at| message.get(at + 1..));
    match code {
        1062 | 1169 | 1586 => after(" for key ").unwrap_or("a duplicate"),
        1265 | 1292 | 1366 | 1367 | 1411 => {
            after(" for column ").unwrap_or("a value that a column cannot hold")
        }
        1690 | 3140 | 3141 | 3157 | 4038 => "a value that a column cannot hold",
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        let errors = [
            (1205, "HY000"),
            (1213, "40001"),
            (1040, "08004"),
            (1203, "42000"),
            (1226, "42000"),
            (1053, "08S01"),
            (1290, "HY000"),
            (1836, "HY000"),
            (1114, "HY000"),
            (1317, "70100"),
            (1927, "70100"),
            (1969, "70100"),
            (4031, "HY000"),
            (9999, "HY000"),
        ];
        for (code, state) in errors {
            assert_eq!(meaning(code, state), Meaning::Retry, "{code}");
        }
    }

    #[test]
    fn what_somebody_must_change_stops_the_pipeline() {
        let errors = [
            (1045, "28000"),
            (1049, "42000"),
            (1044, "42000"),
            (1142, "42000"),
            (1146, "42S02"),
            (1054, "42S22"),
            (1364, "HY000"),
            (1665, "HY000"),
        ];
        for (code, state) in errors {
            assert!(matches!(meaning(code, state), Meaning::Halt(_)), "{code}");
        }
    }

    #[test]
    fn what_the_data_is_to_blame_for_is_refused() {
        let errors = [
            (1406, "22001"),
            (1264, "22003"),
            (1292, "22007"),
            (1366, "HY000"),
            (1366, "22007"),
            (1048, "23000"),
            (1062, "23000"),
            (1452, "23000"),
            (3819, "HY000"),
            (4025, "23000"),
            (1644, "45000"),
        ];
        for (code, state) in errors {
            assert_eq!(meaning(code, state), Meaning::Refused, "{code}");
        }
    }

    #[test]
    fn a_message_keeps_its_names_and_loses_its_values() {
        let duplicate = "Duplicate entry 'hunter2 for key x' for key 'by_id'";
        assert_eq!(without_values(1062, duplicate), "for key 'by_id'");
        let text = "Incorrect string value: 'hunter2' for column `d`.`t`.`entity` at row 1";
        assert_eq!(without_values(1366, text), "for column `d`.`t`.`entity` at row 1");
        assert_eq!(without_values(1292, "hunter2"), "a value that a column cannot hold");
    }
}
