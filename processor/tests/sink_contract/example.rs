//! The example of purchase orders below deploy/examples: its configuration and its tables as they stand there, on a
//! real database, with the orders that the sandbox sends.

use std::collections::BTreeMap;
use std::mem::discriminant;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use processor::fold::Effect;
use processor::sink::Context;
use sandbox::delivery::EntityPlan;
use sandbox::plan::{Plan, Sizes};
use sandbox::sources::MAKINI;
use serde_json::Value;
use shared::config::{ColumnType, Config, Secrets};
use shared::event::Event;

use super::mapping::{Mapped, Table, rows};
use super::{Owner, context, effect, epoch};

/// Orders of the sandbox's plan.
const PLAN: Sizes = Sizes { seed: 7, webhooks: 1_000, body_limit: 64 * 1024 };

/// A file of the example for a database.
pub(crate) fn file(database: &str, name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/purchase-orders");
    std::fs::read_to_string(path.join(database).join(name)).unwrap()
}

/// Runs the example. The tables are there; the lines stand in a table of their own, or in a field `items`.
pub(crate) fn runs(place: &impl Mapped, database: &str, has_lines: bool) {
    let text = file(database, "hookline.toml");
    let path = PathBuf::from("hookline.toml");
    let config = Config::parse(&text, &path, Secrets::Pipeline("none")).unwrap_or_else(|e| panic!("{e}"));
    let pipeline = &config.pipelines["warehouse"];
    assert_eq!(discriminant(&pipeline.sink), discriminant(&place.config()));
    let context = Context { tables: Arc::new(pipeline.tables.clone()), ..context() };
    let suppliers = table("suppliers", &[("vendor", ColumnType::Text), ("number", ColumnType::Text)]);
    // Not every vendor: the others have no number.
    let known = BTreeMap::from([("0000100012", "S-12"), ("0000101330", "S-東京"), ("0000104711", "S-4711")]);
    known.iter().for_each(|(vendor, number)| place.insert(&suppliers, &[vendor, number]));

    let entities = orders();
    let effects = effects(&entities);
    let mut owner = Owner::claim_with(place, &context, 0, epoch(1));
    effects.chunks(37).for_each(|batch| owner.deliver(batch).unwrap());

    let (mut expected, mut expected_lines) = (Vec::new(), Vec::new());
    for entity in entities.iter().skip(1) {
        let body: Value = serde_json::from_slice(&entity.applied.last().unwrap().body).unwrap();
        let text = |pointer: &str| body.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        let (connection, number) = (entity.connection, text("/data/number"));
        let supplier = known.get(text("/data/vendor/id").as_str()).copied().unwrap_or("null");
        let time: jiff::Timestamp = text("/timestamp").parse().unwrap();
        let (currency, vendor) = (text("/data/currency"), text("/data/vendor/name"));
        let items = body.pointer("/data/items").unwrap();
        expected.push(format!("{connection}|{number}|{time:.6}|{currency}|{vendor}|{supplier}"));
        for item in items.as_array().unwrap() {
            let of = |name: &str| {
                let value = &item[name];
                value.as_str().map_or_else(|| value.to_string(), str::to_owned)
            };
            let decimal = |name: &str| of(name).trim_end_matches('0').trim_end_matches('.').to_owned();
            let (line, material, quantity, price) =
                (of("line"), of("material"), decimal("quantity"), decimal("net_price"));
            expected_lines.push(format!("{connection}|{number}|{line}|{material}|{quantity}|{price}"));
        }
    }
    expected.sort();
    expected_lines.sort();
    assert!(expected.len() > 30 && expected_lines.len() > expected.len(), "{} orders", expected.len());
    let text = ColumnType::Text;
    let columns = [
        ("connection", text),
        ("number", text),
        ("changed_at", ColumnType::Timestamp),
        ("currency", text),
        ("vendor", text),
        ("supplier", text),
    ];
    assert_eq!(rows(place, &table("purchase_orders", &columns)), expected);
    let found = if has_lines {
        let columns = [
            ("connection", text),
            ("number", text),
            ("line", text),
            ("material", text),
            ("quantity", ColumnType::Decimal),
            ("net_price", ColumnType::Decimal),
        ];
        rows(place, &table("purchase_order_lines", &columns))
    } else {
        embedded(place)
    };
    assert_eq!(found, expected_lines);
}

/// The lines in their orders' documents.
fn embedded(place: &impl Mapped) -> Vec<String> {
    let columns =
        [("connection", ColumnType::Text), ("number", ColumnType::Text), ("items", ColumnType::Json)];
    let mut out = Vec::new();
    for row in place.rows(&table("purchase_orders", &columns)) {
        let items: Vec<Value> = serde_json::from_str(&row[2]).unwrap();
        for item in items {
            let text = |name: &str| item[name].as_str().unwrap().to_owned();
            let quantity = item["quantity"].to_string();
            let quantity = quantity.trim_end_matches('0').trim_end_matches('.');
            let price = text("net_price");
            let price = price.trim_end_matches('0').trim_end_matches('.');
            let (line, material) = (text("line"), text("material"));
            out.push(format!("{}|{}|{line}|{material}|{quantity}|{price}", row[0], row[1]));
        }
    }
    out.sort();
    out
}

fn table(name: &'static str, columns: &[(&'static str, ColumnType)]) -> Table {
    Table { name, columns: columns.to_vec(), key: Vec::new() }
}

fn orders() -> Vec<EntityPlan> {
    let mut entities = Plan::new(PLAN).entities;
    entities.retain(|entity| entity.source == MAKINI && entity.entity.starts_with("purchase-order-"));
    entities
}

/// The orders' events, those of different orders mixed; the first order is deleted in the end.
fn effects(entities: &[EntityPlan]) -> Vec<Effect> {
    let longest = entities.iter().map(|entity| entity.applied.len()).max().unwrap();
    let mixed = (0..longest).flat_map(|n| {
        entities.iter().filter_map(move |entity| Some((entity, entity.applied.get(n)?.body.as_slice())))
    });
    let mut out = Vec::new();
    for (entity, body) in mixed {
        let json: Value = serde_json::from_slice(body).unwrap();
        let number = json.pointer("/data/number").unwrap().as_str().unwrap();
        let event =
            of(entity.connection, json["id"].as_str().unwrap(), json["type"].as_str().unwrap(), number);
        out.push(effect(i64::try_from(out.len()).unwrap(), 0, &event, body));
    }
    let first: Value = serde_json::from_slice(&entities[0].applied[0].body).unwrap();
    let number = first.pointer("/data/number").unwrap().as_str().unwrap();
    let deleted = of(entities[0].connection, "deleted", "purchase_order.deleted", number);
    out.push(effect(i64::try_from(out.len()).unwrap(), 0, &deleted, b"{}"));
    out
}

fn of(connection: &str, id: &str, kind: &str, number: &str) -> Event {
    Event {
        source: MAKINI.into(),
        connection: connection.into(),
        kind: kind.into(),
        ..super::event(id, Some(number))
    }
}
