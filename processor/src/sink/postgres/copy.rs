//! Rows into hookline_events by COPY in its binary form: they flow, whatever their number and size.
//!
//! An INSERT of arrays took a third longer, and the whole batch in memory on both sides.

use std::error::Error;
use std::pin::pin;

use bytes::BytesMut;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};
use tokio_postgres::{Statement, Transaction};

use super::classify::failed;
use super::connect::Server;
use crate::sink::SinkError;
use crate::sink::rows::{self, Row};

pub(super) const COPY_EVENTS: &str = "COPY {schema}.hookline_events (log_partition, effect_offset, \
    effect_ordinal, source, connection, event_id, type, entity, sequence, event_time, content_type, \
    received_at, log_offset, appended_at, traceparent, body) FROM STDIN (FORMAT binary)";

/// The columns' types, in the order of [`COPY_EVENTS`].
const TYPES: [Type; 16] = [
    Type::INT4,
    Type::INT8,
    Type::INT4,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TIMESTAMPTZ,
    Type::INT8,
    Type::TIMESTAMPTZ,
    Type::TEXT,
    Type::BYTEA,
];

/// 2000-01-01T00:00:00Z, from which PostgreSQL counts, in milliseconds since 1970.
const EPOCH_MS: i64 = 946_684_800_000;

/// Inserts rows, in their order.
pub(super) async fn insert(
    transaction: &Transaction<'_>,
    server: &Server,
    statement: &Statement,
    partition: i32,
    rows: &[Row<'_>],
) -> Result<(), SinkError> {
    if rows.is_empty() {
        return Ok(());
    }
    let failed = |e: tokio_postgres::Error| failed(server, &e);
    let sink = transaction.copy_in(statement).await.map_err(failed)?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &TYPES));
    for row in rows {
        let event = &row.event;
        let values: [&(dyn ToSql + Sync); 16] = [
            &partition,
            &row.position.offset,
            &row.ordinal,
            &event.source,
            &event.connection,
            &event.id,
            &event.kind,
            &event.entity,
            &event.sequence,
            &rows::event_time(row),
            &event.content_type,
            &Timestamp::of(event.received_at_ms, row)?,
            &row.event_offset,
            &Timestamp::of(row.appended_at_ms, row)?,
            &event.traceparent,
            &row.body,
        ];
        writer.as_mut().write(&values).await.map_err(failed)?;
    }
    let inserted = writer.finish().await.map_err(failed)?;
    if usize::try_from(inserted) == Ok(rows.len()) {
        Ok(())
    } else {
        Err(rows::swallowed(&server.to_string()))
    }
}

/// Microseconds since 2000: timestamptz as it is sent. The server refuses what its calendar does not have.
#[derive(Debug)]
struct Timestamp(i64);

impl Timestamp {
    fn of(ms: i64, row: &Row<'_>) -> Result<Self, SinkError> {
        let micros = ms.checked_sub(EPOCH_MS).and_then(|ms| ms.checked_mul(1000));
        micros.map(Self).ok_or_else(|| rows::no_such_time(row))
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}
