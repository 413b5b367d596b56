//! The checker finds each kind of planted difference, and only that.

use super::*;
use crate::plan::Sizes;
use crate::send::Outcome;

fn plan() -> Plan {
    Plan::new(Sizes { seed: 5, webhooks: 400, body_limit: 1_000 })
}

/// The rows as they must be, in an order that says nothing.
fn good(plan: &Plan) -> (Vec<Row>, Vec<EntityRow>) {
    let mut rows = Vec::new();
    let mut states = Vec::new();
    for (n, entity) in plan.entities.iter().enumerate() {
        for (k, event) in entity.applied.iter().enumerate() {
            rows.push(Row {
                source: entity.source.to_owned(),
                connection: entity.connection.to_owned(),
                event_id: event.event_id.clone(),
                entity: Some(entity.entity.clone()),
                sequence: event.sequence.clone(),
                body: event.body.clone(),
                // Offsets of 9 and 10, so that an order of text is not good enough; several at one offset.
                position: ((n % 8) as i64, 5 + n as i64 * 100 + k as i64 / 2, k as i64 % 2),
            });
        }
        let last = entity.applied.last().unwrap();
        states.push(EntityRow {
            source: entity.source.to_owned(),
            connection: entity.connection.to_owned(),
            entity: entity.entity.clone(),
            event_id: last.event_id.clone(),
            sequence: last.sequence.clone(),
            body: last.body.clone(),
        });
    }
    rows.reverse();
    (rows, states)
}

/// Plants a difference in the rows, and says what the checker finds.
fn found(plant: impl FnOnce(&mut Vec<Row>, usize)) -> Vec<Kind> {
    let plan = plan();
    let (mut rows, _) = good(&plan);
    // A row in the middle of an entity with several events.
    let middle =
        plan.entities.iter().find(|e| e.entity.starts_with("purchase") && e.applied.len() > 2).unwrap();
    let id = &middle.applied[1].event_id;
    let n = rows.iter().position(|r| r.event_id == *id && r.connection == middle.connection).unwrap();
    plant(&mut rows, n);
    super::rows(&plan.entities, &rows).into_iter().map(|d| d.kind).collect()
}

fn found_in_states(plant: impl FnOnce(&mut Vec<EntityRow>)) -> Vec<Kind> {
    let plan = plan();
    let (_, mut states) = good(&plan);
    plant(&mut states);
    super::entities(&plan.entities, &states).into_iter().map(|d| d.kind).collect()
}

#[test]
fn good_rows_have_no_differences() {
    assert_eq!(found(|_, _| {}), []);
    assert_eq!(found_in_states(|_| {}), []);
}

#[test]
fn a_missing_row_is_found() {
    assert_eq!(found(|rows, n| drop(rows.remove(n))), [Kind::MissingRow]);
    assert!(found(|rows, _| rows.clear()).len() > 200);
}

#[test]
fn a_double_row_is_found() {
    assert_eq!(
        found(|rows, n| {
            let mut row = rows[n].clone();
            row.position.1 += 50;
            rows.push(row);
        }),
        [Kind::DoubleRow]
    );
}

#[test]
fn an_extra_row_is_found() {
    let extra = |change: fn(&mut Row)| {
        found(move |rows, n| {
            let mut row = rows[n].clone();
            change(&mut row);
            rows.push(row);
        })
    };
    assert_eq!(extra(|row| row.event_id.push('x')), [Kind::ExtraRow]);
    assert_eq!(extra(|row| row.source.push('x')), [Kind::ExtraRow]);
}

#[test]
fn another_customers_row_is_no_substitute() {
    let swapped = found(|rows, n| rows[n].connection = "initech".to_owned());
    assert_eq!(swapped, [Kind::MissingRow, Kind::ExtraRow]);
}

#[test]
fn a_wrong_value_in_a_row_is_found() {
    assert_eq!(found(|rows, n| rows[n].body[20] ^= 1), [Kind::WrongBody]);
    assert_eq!(found(|rows, n| rows[n].body.push(b' ')), [Kind::WrongBody]);
    assert_eq!(found(|rows, n| rows[n].sequence = Some("99".to_owned())), [Kind::WrongSequence]);
    assert_eq!(found(|rows, n| rows[n].sequence = None), [Kind::WrongSequence]);
    assert_eq!(found(|rows, n| rows[n].entity = Some("purchase-order-1".to_owned())), [Kind::WrongEntity]);
    assert_eq!(found(|rows, n| rows[n].entity = None), [Kind::WrongEntity]);
}

#[test]
fn a_swapped_order_is_found() {
    let swap = |rows: &mut Vec<Row>, n: usize| {
        // Rows stand in reverse: the one before belongs to the next event of the same entity.
        let position = rows[n].position;
        rows[n].position = rows[n - 1].position;
        rows[n - 1].position = position;
    };
    let kinds = found(swap);
    assert!(kinds.contains(&Kind::WrongOrder) && kinds.iter().all(|k| *k == Kind::WrongOrder), "{kinds:?}");
}

#[test]
fn a_wrong_position_is_found() {
    assert_eq!(found(|rows, n| rows[n].position = rows[n - 1].position), [Kind::WrongPosition]);
    assert_eq!(found(|rows, n| rows[n].position.0 += 1), [Kind::WrongPosition; 2]);
}

#[test]
fn a_wrong_entity_table_is_found() {
    assert_eq!(found_in_states(|states| drop(states.pop())), [Kind::MissingEntity]);
    assert_eq!(found_in_states(|states| states.push(states[0].clone())), [Kind::ExtraEntity]);
    assert_eq!(
        found_in_states(|states| states[3].entity.push('x')),
        [Kind::MissingEntity, Kind::ExtraEntity]
    );
    assert_eq!(found_in_states(|states| states[3].event_id.push('x')), [Kind::WrongState]);
    assert_eq!(found_in_states(|states| states[3].sequence = Some("0".into())), [Kind::WrongState]);
    assert_eq!(found_in_states(|states| states[3].body.truncate(9)), [Kind::WrongState]);
}

#[test]
fn wrong_answers_are_found() {
    let plan = plan();
    let right = |n: usize| match plan.deliveries[n].expect {
        Expect::Refused(status) => status,
        Expect::Accepted(_) | Expect::Waits => 200,
    };
    let outcome = |delivery: usize| Outcome {
        delivery,
        answer: Ok(right(delivery)),
        attempts: 1,
        began: std::time::Duration::ZERO,
        ended: std::time::Duration::ZERO,
    };
    let good = Report { outcomes: (0..plan.deliveries.len()).map(outcome).collect(), ..Report::default() };
    assert_eq!(answers(&plan, &good), []);
    let mut bad = good.clone();
    bad.outcomes[3].answer = Ok(500);
    bad.outcomes[4].answer = Err("cut off".to_owned());
    bad.outcomes.pop();
    assert_eq!(answers(&plan, &bad).len(), 3);
    let refused = plan.deliveries.iter().position(|d| d.expect == Expect::Refused(401)).unwrap();
    let mut bad = good;
    bad.outcomes[refused].answer = Ok(200);
    assert_eq!(answers(&plan, &bad)[0].kind, Kind::WrongAnswer);
}

#[test]
fn wrong_counts_are_found() {
    let expected = Verdicts { applied: 9, duplicates: 3, stale: 2, held: 0, dead_lettered: 1, ignored: 1 };
    assert_eq!(verdicts(&expected, &expected, 0), []);
    let more = |change: fn(&mut Verdicts), retries| {
        let mut counted = expected;
        change(&mut counted);
        verdicts(&expected, &counted, retries).len()
    };
    assert_eq!(more(|v| v.applied += 1, 5), 1);
    assert_eq!(more(|v| v.stale -= 1, 5), 1);
    assert_eq!(more(|v| v.held += 1, 5), 1);
    assert_eq!(more(|v| v.dead_lettered += 1, 5), 1);
    assert_eq!(more(|v| v.duplicates -= 1, 5), 1);
    assert_eq!(more(|v| v.duplicates += 1, 0), 1);
    assert_eq!(more(|v| v.duplicates += 1, 1), 0);
    assert_eq!(more(|v| (v.duplicates, v.ignored) = (4, 2), 1), 1);
    assert_eq!(more(|v| (v.duplicates, v.ignored) = (4, 2), 2), 0);
}
