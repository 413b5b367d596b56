//! `--sql FILE QUERY`: shows rows to who has no `sqlite3` installed.

use std::path::Path;

use anyhow::Context as _;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

/// Runs a query on a file opened for reading only; one line a row, values separated by `|`, as `sqlite3` does.
pub(crate) fn run(file: &Path, query: &str) -> anyhow::Result<Vec<String>> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open {}", file.display()))?;
    let mut statement = db.prepare(query)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        let values: Vec<String> =
            (0..columns).map(|n| Ok(shown(row.get_ref(n)?))).collect::<rusqlite::Result<_>>()?;
        lines.push(values.join("|"));
    }
    Ok(lines)
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(n) => n.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_shows_rows_and_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.db");
        let db = Connection::open(&file).unwrap();
        db.execute_batch("CREATE TABLE t (a INTEGER, b BLOB); INSERT INTO t VALUES (1, x'7b7d'), (2, NULL);")
            .unwrap();
        assert_eq!(run(&file, "SELECT * FROM t ORDER BY a").unwrap(), ["1|{}", "2|"]);
        assert!(run(&file, "DELETE FROM t").is_err());
    }
}
