//! Rows of tables of one's own: read back from columns of text, and compared line by line.

use super::super::world::{At, World};
use super::*;
use crate::provider::expected::of_world;
use crate::rng::Rng;

fn expected() -> Expected {
    let mut world = World::new(&["acme".to_owned()]);
    let mut rng = Rng::new(5);
    for resource in Resource::ALL {
        for n in 0..3 {
            let at = At { connection: "acme", resource, ms: 1_767_600_000_000 };
            let (id, _) = world.create(at, &mut rng).unwrap();
            if n == 2 {
                world.delete(at, &id, true).unwrap();
            }
        }
    }
    of_world("makini", &world, true)
}

/// The rows of a list's own table, as a query gives them.
fn rows(expected: &Expected, resource: Resource) -> Vec<Vec<Option<String>>> {
    let live =
        expected.entities.iter().filter(|entity| entity.resource == resource && entity.record.is_some());
    live.map(|entity| {
        let first = [&entity.connection, &entity.entity, &entity.revision.to_string(), &entity.updated_at];
        let fields =
            columns(resource).iter().map(|(_, _, at)| as_text(entity.record.as_ref()?.pointer(at)?).into());
        first.into_iter().cloned().map(Some).chain(fields).collect()
    })
    .collect()
}

fn lines(expected: &Expected) -> Vec<Vec<Option<String>>> {
    let orders = expected.entities.iter().filter(|entity| entity.resource == Resource::PurchaseOrders);
    let of_order = |order: &super::super::expected::Entity| -> Vec<_> {
        let Some(record) = &order.record else { return Vec::new() };
        let text =
            |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let row = |line: &serde_json::Value| {
            let fields = ["line", "material", "quantity", "net_price"].map(|field| Some(text(&line[field])));
            [Some(order.connection.clone()), Some(order.entity.clone())].into_iter().chain(fields).collect()
        };
        record["lines"].as_array().unwrap().iter().map(row).collect()
    };
    orders.flat_map(of_order).collect()
}

fn told(differences: &[Difference]) -> Vec<String> {
    differences.iter().map(ToString::to_string).collect()
}

#[test]
fn rows_of_every_list_are_read_back_and_agree() {
    let expected = expected();
    for resource in Resource::ALL {
        let rows: Vec<_> =
            rows(&expected, resource).iter().map(|row| Row::of_columns(resource, row).unwrap()).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].fields.len(), columns(resource).len());
        assert_eq!(told(&super::super::compare(&expected, &[resource], &rows)), [""; 0]);
        for (n, (_, _, place)) in columns(resource).iter().enumerate() {
            let mut rows = rows.clone();
            rows[1].fields.insert((*place).to_owned(), "something else".to_owned());
            let found = super::super::compare(&expected, &[resource], &rows);
            assert_eq!((found.len(), found[0].kind), (1, Kind::WrongState), "column {n}");
        }
    }
}

#[test]
fn what_is_no_row_is_said() {
    let expected = expected();
    let mut row = rows(&expected, Resource::Assets).remove(0);
    let error = |row: &[Option<String>]| Row::of_columns(Resource::Assets, row).unwrap_err();
    assert!(Row::of_columns(Resource::Suppliers, &row).unwrap_err().contains("is no entity of this list"));
    row[6] = None;
    assert_eq!(error(&row), "assets: running_hours is null");
    row[2] = Some("first".to_owned());
    assert_eq!(error(&row), "assets: revision is no number");
    assert_eq!(error(&row[..1]), "assets: entity is null");
}

#[test]
fn lines_are_compared_one_by_one() {
    let expected = expected();
    let good = lines(&expected);
    assert_eq!(told(&compare_lines(&expected, &good)), [""; 0]);
    assert_eq!(
        told(&compare_lines(&expected, &good[1..])),
        ["entity missing: line 00010 of acme/purchase-order-po_000001"]
    );
    let mut wrong = good.clone();
    wrong[0][4] = Some("0.001".to_owned());
    assert_eq!(compare_lines(&expected, &wrong).len(), 2, "one too many, one missing");
    let mut double = good.clone();
    double.push(good[0].clone());
    assert_eq!(compare_lines(&expected, &double).len(), 1);
    let mut left = good.clone();
    left.push(
        ["acme", "purchase-order-po_000003", "00010", "x", "1", "1"]
            .map(|text| Some(text.to_owned()))
            .to_vec(),
    );
    assert_eq!(compare_lines(&expected, &left), [], "its deletion was lost");
}

#[test]
fn the_configuration_names_the_columns_of_the_definitions() {
    let config: toml::Value = toml::from_str(&tables_toml("warehouse")).unwrap();
    let tables = config["pipelines"]["warehouse"]["tables"].as_table().unwrap();
    assert_eq!(tables.len(), 5);
    for database in [Database::Sqlite, Database::Postgres] {
        let sql = tables_sql(database);
        for (name, table) in tables {
            let (_, rest) = sql.split_once(&format!("CREATE TABLE {name} (\n")).unwrap();
            let (definition, _) = rest.split_once("PRIMARY KEY").unwrap();
            let defined: BTreeSet<_> = definition
                .lines()
                .filter_map(|line| line.trim().split(' ').next())
                .filter(|word| !word.is_empty())
                .collect();
            let mapped: BTreeSet<_> =
                table["columns"].as_table().unwrap().keys().map(String::as_str).collect();
            assert_eq!(defined, mapped, "{name}");
        }
    }
    assert_eq!(
        rows_sql(Resource::Assets),
        "SELECT CAST(connection AS text), CAST(entity AS text), CAST(revision AS text), CAST(updated_at AS text), \
         CAST(name AS text), CAST(status AS text), CAST(running_hours AS text) FROM assets"
    );
}
