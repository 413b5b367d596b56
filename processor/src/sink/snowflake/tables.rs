//! The user's own tables: whether they are as mapped, by what the catalog says of them.

use std::collections::BTreeMap;

use shared::config::{ColumnType, Miss};
use snowflake_connector_rs::CellValue;

use super::connect::{Server, Session};
use super::statements::{quoted, text};
use crate::sink::mapping::check::{self, FoundColumn, FoundTable};
use crate::sink::mapping::table::Table;
use crate::sink::{SinkError, rows};

/// All as texts; by the tables' names, of any schema.
const COLUMNS: &str = "SELECT t.table_schema, t.table_name, t.table_type, c.column_name, c.data_type, \
    COALESCE(c.numeric_precision::VARCHAR, ''), COALESCE(c.numeric_scale::VARCHAR, ''), \
    CASE WHEN c.is_nullable = 'NO' AND c.column_default IS NULL AND COALESCE(c.is_identity, 'NO') = 'NO' \
    THEN 'needed' ELSE '' END, COALESCE(c.collation_name, '') \
    FROM information_schema.tables AS t JOIN information_schema.columns AS c \
    ON c.table_schema = t.table_schema AND c.table_name = t.table_name WHERE t.table_name IN";

/// What is known of a table since the session began.
pub(super) struct Prepared {
    /// With its schema, quoted.
    pub(super) name: String,
    /// The columns' types.
    pub(super) types: Vec<String>,
    pub(super) scales: Vec<Option<usize>>,
    /// By column: the type of the one that is compared with.
    pub(super) matching: BTreeMap<usize, String>,
}

/// Checks the tables.
pub(super) async fn prepare(session: &mut Session, server: &Server) -> Result<Vec<Prepared>, SinkError> {
    if server.tables.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = find(session, server).await.map_err(rows::not_by_data)?;
    let mut seen = BTreeMap::new();
    for table in &server.tables {
        if let Some(other) = seen.insert(parts(server, &table.name), &table.name) {
            let text = format!("{server}: the tables `{other}` and `{}` are one: map it once", table.name);
            return Err(SinkError::Halt(text));
        }
        let mut faults = look_up_faults(server, table, &found);
        faults.extend(name_fault(table));
        let Some(there) = found.get_mut(&table.name) else { continue };
        there.faults.extend(faults);
        // Snowflake enforces no key: MERGE keeps it.
        there.unique.push(table.key_names());
    }
    check::check(&server.to_string(), &server.pipeline, &server.tables, &found)?;
    let type_of = |table: &str, column: &str| -> String {
        let column = found.get(table).and_then(|there| there.columns.get(column));
        column.map(|column| column.type_name.clone()).unwrap_or_default()
    };
    let prepared = server.tables.iter().map(|table| {
        let columns = || table.columns.iter().enumerate();
        let look_ups = columns().filter_map(|(n, column)| Some((n, column.lookup.as_ref()?)));
        Prepared {
            name: name(server, &table.name),
            types: columns().map(|(_, column)| type_of(&table.name, &column.name)).collect(),
            scales: found.get(&table.name).map(|there| check::scales(table, there)).unwrap_or_default(),
            matching: look_ups.map(|(n, lookup)| (n, type_of(&lookup.table, &lookup.matching))).collect(),
        }
    });
    Ok(prepared.collect())
}

async fn find(session: &mut Session, server: &Server) -> Result<BTreeMap<String, FoundTable>, SinkError> {
    let names = check::names(&server.tables);
    let literals: Vec<_> = names.iter().map(|name| text(parts(server, name).1)).collect();
    let mut found: BTreeMap<String, FoundTable> = BTreeMap::new();
    for row in session.run(server, format!("{COLUMNS} ({})", literals.join(", "))).await? {
        let texts: Option<Vec<&str>> = row.values().iter().map(as_text).collect();
        let Some([schema, table, kind, column, data_type, precision, scale, needed, collation]) =
            texts.as_deref().and_then(|texts| <[&str; 9]>::try_from(texts).ok())
        else {
            return Err(server.other_tables());
        };
        for name in names.iter().filter(|name| parts(server, name) == (schema, table)) {
            let there = found.entry((*name).to_owned()).or_insert_with(|| {
                let faults =
                    (kind != "BASE TABLE").then_some("is a view or another thing that is not a table");
                FoundTable {
                    faults: faults.map(str::to_owned).into_iter().collect(),
                    ..FoundTable::default()
                }
            });
            let confuses = "its collation takes different texts for equal; make it a column without one";
            let is_number = data_type == "NUMBER";
            let described = FoundColumn {
                type_name: match data_type {
                    "NUMBER" => format!("NUMBER({precision}, {scale})"),
                    other => other.to_owned(),
                },
                takes: takes(data_type),
                confuses: (!matches!(collation, "" | "utf8" | "bin")).then_some(confuses),
                needs_value: !needed.is_empty(),
                is_generated: false,
                scale: is_number.then(|| scale.parse().unwrap_or(0)),
            };
            there.columns.insert(column.to_owned(), described);
        }
    }
    Ok(found)
}

pub(super) fn as_text(value: &CellValue) -> Option<&str> {
    if let CellValue::String(text) = value { Some(text) } else { None }
}

fn takes(data_type: &str) -> &'static [ColumnType] {
    match data_type {
        "TEXT" => &[ColumnType::Text, ColumnType::Json],
        "NUMBER" => &[ColumnType::Integer, ColumnType::Decimal],
        "BOOLEAN" => &[ColumnType::Boolean],
        "TIMESTAMP_NTZ" | "TIMESTAMP_TZ" | "TIMESTAMP_LTZ" => &[ColumnType::Timestamp],
        "DATE" => &[ColumnType::Date],
        "VARIANT" => &[ColumnType::Json],
        _ => &[],
    }
}

/// What would end the block that it stands in.
fn name_fault(table: &Table) -> Option<String> {
    let names = table.columns.iter().map(|column| &column.name).chain([&table.name]);
    let has = names.filter(|name| name.contains("$$")).map(|name| format!("`{name}`")).collect::<Vec<_>>();
    (!has.is_empty()).then(|| format!("has names with two $ one after the other: {}", has.join(", ")))
}

/// What the other databases' look-ups can do, and these not.
fn look_up_faults(server: &Server, table: &Table, found: &BTreeMap<String, FoundTable>) -> Vec<String> {
    let mut faults = Vec::new();
    for column in &table.columns {
        let Some(lookup) = &column.lookup else { continue };
        let own = server.tables.iter().any(|own| parts(server, &own.name) == parts(server, &lookup.table));
        if own && lookup.miss == Miss::Wait {
            faults.push(format!(
                "has in column `{}` a look-up that waits for rows of table `{}`, which this pipeline writes: in \
                 Snowflake, a look-up does not find what its own batch writes; set another `miss`",
                column.name, lookup.table
            ));
        }
        let taken = found.get(&lookup.table).and_then(|there| there.columns.get(&lookup.take));
        if let Some(taken) = taken
            && !(matches!(taken.type_name.as_str(), "TEXT" | "BOOLEAN") || taken.scale.is_some())
        {
            faults.push(format!(
                "takes for column `{}` the column `{}` of table `{}`, which is {}: in Snowflake, look-ups take \
                 text, numbers and booleans",
                column.name, lookup.take, lookup.table, taken.type_name
            ));
        }
    }
    faults
}

/// A table's schema and its name in it.
fn parts<'n>(server: &'n Server, table: &'n str) -> (&'n str, &'n str) {
    table.split_once('.').unwrap_or((&server.schema, table))
}

/// A table's name with its schema, quoted.
pub(super) fn name(server: &Server, table: &str) -> String {
    let (schema, table) = parts(server, table);
    format!("{}.{}", quoted(schema), quoted(table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::mapping::table;

    #[test]
    fn a_name_that_would_end_the_block_is_a_fault() {
        let fault = |name: &str, column: &str| {
            let text =
                format!("['{name}']\nkey = ['{column}']\ncolumns.'{column}' = {{ from = 'entity' }}\n");
            table::all(&toml::from_str(&text).unwrap()).first().and_then(name_fault)
        };
        assert_eq!(fault("A$", "$B"), None);
        assert!(fault("A", "B$$C").unwrap().contains("two $ one after the other: `B$$C`"));
        assert!(fault("A$$", "B").unwrap().contains("`A$$`"));
    }

    #[test]
    fn what_loses_digits_or_is_no_text_takes_nothing() {
        for data_type in ["FLOAT", "BINARY", "TIME", "OBJECT", "ARRAY", "GEOGRAPHY"] {
            assert_eq!(takes(data_type), [], "{data_type}");
        }
    }
}
