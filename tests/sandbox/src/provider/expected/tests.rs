//! The comparison finds each kind of planted difference, and only that.

use serde_json::json;

use super::super::world::At;
use super::*;
use crate::rng::Rng;

fn expected() -> Expected {
    let mut world = World::new(&["acme".to_owned(), "globex".to_owned()]);
    let mut rng = Rng::new(3);
    for connection in ["acme", "globex"] {
        for resource in Resource::ALL {
            for n in 0..3 {
                let at = At { connection, resource, ms: 1_767_600_000_000 + n };
                let (id, _) = world.create(at, &mut rng).unwrap();
                if n == 1 {
                    world.update(at, &id, &mut rng).unwrap();
                } else if n == 2 {
                    world.delete(at, &id, connection == "globex").unwrap();
                }
            }
        }
    }
    of_world("makini", &world, true)
}

/// The rows as they must be, as a table has them that marks what is deleted.
fn good(expected: &Expected) -> Vec<Row> {
    let row = |entity: &Entity| Row {
        connection: entity.connection.clone(),
        resource: Some(entity.resource),
        id: entity.id.clone(),
        revision: entity.revision,
        updated_at: entity.updated_at.clone(),
        deleted: entity.record.is_none(),
        record: entity.record.clone(),
        fields: BTreeMap::new(),
    };
    expected.entities.iter().map(row).collect()
}

/// Plants a difference in the rows, and says what is found.
fn found(plant: impl FnOnce(&mut Vec<Row>)) -> Vec<(Kind, String)> {
    let expected = expected();
    let mut rows = good(&expected);
    plant(&mut rows);
    compare(&expected, &Resource::ALL, &rows).into_iter().map(|found| (found.kind, found.about)).collect()
}

fn only(kind: Kind, about: &str) -> Vec<(Kind, String)> {
    vec![(kind, about.to_owned())]
}

/// The first of acme's orders that is there, the second, and the one that is not.
fn places(rows: &[Row]) -> [usize; 3] {
    ["po_000001", "po_000002", "po_000003"].map(|id| rows.iter().position(|row| row.id == id).unwrap())
}

#[test]
fn nothing_is_found_where_all_agrees() {
    assert_eq!(found(|_| {}), []);
    assert_eq!(found(|rows| rows.retain(|row| !row.deleted)), [], "a table that deletes has no row");
    assert_eq!(found(|rows| rows.reverse()), []);
    assert_eq!(found(|rows| rows.iter_mut().for_each(|row| row.record = None)), [], "not all tables have it");
}

#[test]
fn each_planted_difference_is_found() {
    assert_eq!(
        found(|rows| drop(rows.remove(places(rows)[1]))),
        only(Kind::MissingEntity, "acme/purchase-order-po_000002, revision 2"),
    );
    assert_eq!(
        found(|rows| rows.push(rows[places(rows)[0]].clone())),
        only(Kind::ExtraEntity, "acme/purchase-order-po_000001 has 2 rows"),
    );
    assert_eq!(
        found(|rows| rows.push(Row { id: "po_9".to_owned(), ..rows[places(rows)[0]].clone() })),
        only(Kind::ExtraEntity, "1 of acme, purchase_orders, id po_9"),
    );
    assert_eq!(
        found(|rows| rows.push(Row { resource: None, ..rows[0].clone() })),
        only(Kind::ExtraEntity, &format!("1 of acme, no list, id {}", "po_000001")),
    );
    let wrong = |at: usize, change: fn(&mut Row)| {
        found(|rows| {
            let place = places(rows)[at];
            change(&mut rows[place]);
        })
    };
    let state = |about: &str| only(Kind::WrongState, &format!("acme/purchase-order-{about}"));
    assert_eq!(wrong(1, |row| row.revision = 1), state("po_000002 has revision 1, not 2"));
    assert_eq!(
        wrong(0, |row| row.updated_at = "2026-01-05T08:00:00.007Z".to_owned()),
        state("po_000001 was updated at \"2026-01-05T08:00:00.007Z\", not 2026-01-05T08:00:00.000Z"),
    );
    assert_eq!(
        wrong(0, |row| row.updated_at = "now".to_owned()),
        state("po_000001 was updated at \"now\", not 2026-01-05T08:00:00.000Z"),
    );
    assert_eq!(wrong(2, |row| row.deleted = false), state("po_000003 is there, and should be deleted"));
    assert_eq!(wrong(0, |row| row.deleted = true), state("po_000001 is deleted, and should be there"));
    assert_eq!(
        wrong(0, |row| row.record = Some(json!({ "id": "po_000001" }))),
        state("po_000001 has another record at revision 1"),
    );
    assert_eq!(
        wrong(0, |row| drop(row.fields.insert("/currency".to_owned(), "XXX".to_owned()))),
        state("po_000001 has another /currency"),
    );
    assert_eq!(
        wrong(0, |row| drop(row.fields.insert("/colour".to_owned(), "red".to_owned()))),
        state("po_000001 has another /colour"),
    );
}

#[test]
fn times_are_compared_as_instants_and_fields_as_text() {
    assert_eq!(
        found(|rows| {
            let [first, ..] = places(rows);
            let row = &mut rows[first];
            row.updated_at = "2026-01-05 09:00:00+01".to_owned();
            let record = row.record.take().unwrap();
            for field in ["/currency", "/vendor/name", "/lines"] {
                row.fields.insert(field.to_owned(), as_text(record.pointer(field).unwrap()));
            }
        }),
        [],
    );
}

#[test]
fn lists_that_nobody_asks_about_are_left_out() {
    let expected = expected();
    let mut rows = good(&expected);
    rows.retain(|row| row.resource == Some(Resource::Assets));
    assert_eq!(compare(&expected, &[Resource::Assets], &rows), []);
    assert_eq!(compare(&expected, &[Resource::Suppliers], &rows).len(), 4, "two of each connection");
}

#[test]
fn what_a_lost_deletion_left_may_stay_but_nothing_later() {
    let with_revision = |revision: u64| {
        found(|rows| {
            let lost =
                rows.iter_mut().find(|row| row.connection == "globex" && row.id == "po_000003").unwrap();
            (lost.revision, lost.deleted) = (revision, false);
        })
    };
    assert_eq!(with_revision(1), []);
    let about = "globex/purchase-order-po_000003 has revision 2, which came after its deletion, 2";
    assert_eq!(with_revision(2), only(Kind::WrongState, about));
}

#[test]
fn a_deletion_may_be_found_without_a_webhook_but_only_of_what_is_deleted() {
    let found_by_list = |id: &str| {
        let body = format!(r#"{{"type":"purchase_order.deleted","data":{{"id":"{id}"}}}}"#);
        found(|rows| {
            let row = Row::of_entity("globex", &format!("purchase-order-{id}"), body.as_bytes());
            rows.retain(|row| {
                row.connection != "globex" || row.id != id || row.resource != Some(Resource::PurchaseOrders)
            });
            rows.push(row.unwrap().unwrap());
        })
    };
    assert_eq!(found_by_list("po_000003"), []);
    let about = "globex/purchase-order-po_000002 is deleted, and should be there";
    assert_eq!(found_by_list("po_000002"), only(Kind::WrongState, about));
    let live = br#"{"type":"purchase_order.updated","data":{"id":"po_1"}}"#;
    assert!(Row::of_entity("acme", "purchase-order-po_1", live).unwrap().is_err(), "a live one tells all");
}

#[test]
fn a_row_is_read_from_the_table_of_entities() {
    let body = br#"{"type":"asset.updated","connection_id":"acme","data":{"id":"PUMP/1","revision":4,"updated_at":"2026-01-05T08:00:00.000Z","running_hours":12.50}}"#;
    let row = Row::of_entity("acme", "asset-PUMP/1", body).unwrap().unwrap();
    assert_eq!(
        (row.resource, row.id.as_str(), row.revision, row.deleted),
        (Some(Resource::Assets), "PUMP/1", 4, false)
    );
    assert_eq!(row.record.unwrap()["running_hours"].to_string(), "12.50");
    assert_eq!(Row::of_entity("acme", "connection-acme", b"{}"), None);
    let error = Row::of_entity("acme", "asset-PUMP/2", body).unwrap().unwrap_err();
    assert!(error.starts_with("acme/asset-PUMP/2: the body is not an event"), "{error}");
}

#[test]
fn statuses_are_compared_as_hookline_calls_them() {
    let expected = expected();
    let statuses = |acme: &str, globex: Option<&str>| {
        let mut statuses = BTreeMap::from([("acme".to_owned(), acme.to_owned())]);
        statuses.extend(globex.map(|status| ("globex".to_owned(), status.to_owned())));
        compare_statuses(&expected, &statuses).into_iter().map(|found| found.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(statuses("active", Some("active")), [""; 0]);
    assert_eq!(
        statuses("offline", None),
        [
            "wrong state of an entity: connection acme is offline, not active",
            "entity missing: connection globex, active"
        ],
    );
}
