//! The sink's SQL. Numbers stand in it as they are, texts quoted; rows never do: they come by way of
//! `hookline_batch` and `hookline_mapped`.
//!
//! What the blocks look like is kept in `processor/tests/golden/snowflake`.

use crate::position::{Epoch, Fence, Position};
use crate::sink::rows::{self, Row, StoredFence};
use crate::sink::{Batch, Context, SinkError};

/// What a block raises when the fence is not where it was left.
pub(super) const FENCED: &str = "HOOKLINE_FENCED";
/// What a block raises when not every event of the batch was new.
pub(super) const OCCUPIED: &str = "HOOKLINE_OCCUPIED";
/// What a block raises when a connection's status is not the one that was read before.
pub(super) const OVERTAKEN: &str = "HOOKLINE_OVERTAKEN";

/// Where a batch's rows wait for the block that merges them. It goes with its session.
pub(super) const CREATE_BATCH: &str = "CREATE OR REPLACE TEMPORARY TABLE hookline_batch (\
    effect_offset NUMBER(19, 0) NOT NULL, effect_ordinal NUMBER(10, 0) NOT NULL, source VARCHAR NOT NULL, \
    connection VARCHAR NOT NULL, event_id VARCHAR NOT NULL, type VARCHAR NOT NULL, entity VARCHAR, \
    sequence VARCHAR, event_time VARCHAR, content_type VARCHAR, received_at TIMESTAMP_NTZ(3) NOT NULL, \
    log_offset NUMBER(19, 0) NOT NULL, appended_at TIMESTAMP_NTZ(3) NOT NULL, traceparent VARCHAR, \
    body BINARY(67108864) NOT NULL, is_last BOOLEAN NOT NULL)";

const STAGED: &str = "INTO hookline_batch (effect_offset, effect_ordinal, source, connection, event_id, type, \
    entity, sequence, event_time, content_type, received_at, log_offset, appended_at, traceparent, body, is_last) \
    SELECT value:effect_offset::NUMBER(19, 0), value:effect_ordinal::NUMBER(10, 0), value:source::VARCHAR, \
    value:connection::VARCHAR, value:event_id::VARCHAR, value:type::VARCHAR, value:entity::VARCHAR, \
    value:sequence::VARCHAR, value:event_time::VARCHAR, value:content_type::VARCHAR, \
    value:received_at::TIMESTAMP_NTZ(3), value:log_offset::NUMBER(19, 0), value:appended_at::TIMESTAMP_NTZ(3), \
    value:traceparent::VARCHAR, TO_BINARY(value:body::VARCHAR, 'BASE64'), value:is_last::BOOLEAN \
    FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?)))";

/// Where the rows of the user's tables and of connections' statuses wait, each with the part of the block that it is for, and its values as texts.
pub(super) const CREATE_MAPPED: &str = "CREATE OR REPLACE TEMPORARY TABLE hookline_mapped (\
    part NUMBER(10, 0) NOT NULL, content VARIANT NOT NULL)";

const STAGED_MAPPED: &str = "INTO hookline_mapped (part, content) \
    SELECT value:part::NUMBER(10, 0), value:content FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?)))";

const MERGE_ENTITIES: &str = "\
MERGE INTO hookline_entities AS shown
  USING (SELECT * FROM hookline_batch WHERE is_last) AS event
  ON shown.source = event.source AND shown.connection = event.connection AND shown.entity = event.entity
  WHEN MATCHED THEN UPDATE SET event_id = event.event_id, type = event.type, sequence = event.sequence,
    body = event.body, log_partition = {partition}, effect_offset = event.effect_offset,
    effect_ordinal = event.effect_ordinal, updated = event.appended_at
  WHEN NOT MATCHED THEN INSERT (source, connection, entity, event_id, type, sequence, body, log_partition,
    effect_offset, effect_ordinal, updated)
    VALUES (event.source, event.connection, event.entity, event.event_id, event.type, event.sequence, event.body,
    {partition}, event.effect_offset, event.effect_ordinal, event.appended_at)";

/// Puts rows, as a text of JSON, into `hookline_batch`; the first ones take the place of what is there.
pub(super) fn stage(is_first: bool) -> String {
    format!("INSERT {}{STAGED}", if is_first { "OVERWRITE " } else { "" })
}

/// The same for `hookline_mapped`.
pub(super) fn stage_mapped(is_first: bool) -> String {
    format!("INSERT {}{STAGED_MAPPED}", if is_first { "OVERWRITE " } else { "" })
}

/// Moves the fence, first of all, merges what is in `hookline_batch`, and does what is `more` to do.
pub(super) fn deliver(batch: &Batch<'_>, rows: &[Row<'_>], more: &[String]) -> Result<String, SinkError> {
    let partition = batch.partition;
    let mut steps = vec![move_fence(batch)?, raise_if("SQLROWCOUNT = 0", FENCED)];
    if let Some(first) = rows.first() {
        steps.push(merge_events(partition, first.position.offset));
        steps.push(raise_if(&format!("SQLROWCOUNT <> {}", rows.len()), OCCUPIED));
    }
    if rows.iter().any(|row| row.event.entity.is_some()) {
        steps.push(MERGE_ENTITIES.replace("{partition}", &partition.to_string()));
    }
    steps.extend_from_slice(more);
    Ok(block(&steps))
}

/// Becomes the owner: makes an empty fence where there is none, and raises its epoch, unless that is higher or a
/// fence is another pipeline's.
pub(super) fn claim(context: &Context, partition: i32, epoch: Epoch) -> Result<String, SinkError> {
    let (lineage, claim) = rows::stored_epoch(epoch)?;
    let empty = StoredFence::of(&Fence::EMPTY)?;
    let StoredFence { offset, ordinal, lineage: no_lineage, claim: no_claim, .. } = empty;
    let digest = bytes(&empty.digest);
    let owner = [&context.pipeline, &context.cluster_id, &context.topic].map(|name| text(name)).join(", ");
    let insert = format!(
        "MERGE INTO hookline_fence AS fence
  USING (SELECT {partition} AS log_partition) AS claimed
  ON fence.log_partition = claimed.log_partition
  WHEN NOT MATCHED THEN INSERT (log_partition, pipeline, cluster_id, topic, effect_offset, effect_ordinal, digest,
    lineage, claim, updated_at)
    VALUES (claimed.log_partition, {owner}, {offset}, {ordinal}, {digest}, {no_lineage}, {no_claim}, SYSDATE())"
    );
    let raise = format!(
        "UPDATE hookline_fence SET lineage = {lineage}, claim = {claim}, updated_at = SYSDATE()
  WHERE log_partition = {partition} AND (lineage < {lineage} OR (lineage = {lineage} AND claim <= {claim}))
    AND (SELECT COUNT(*) FROM hookline_fence WHERE {}) = 0",
        is_foreign(context)
    );
    Ok(block(&[insert, raise, raise_if("SQLROWCOUNT = 0", FENCED)]))
}

/// A partition's fence: none or one row of numbers, and a digest.
pub(super) fn read_fence(partition: i32) -> String {
    format!(
        "SELECT effect_offset, effect_ordinal, digest, lineage, claim FROM hookline_fence \
         WHERE log_partition = {partition}"
    )
}

/// Whose a fence is that is not ours: none or one row of texts.
pub(super) fn find_foreign(context: &Context) -> String {
    format!("SELECT pipeline, cluster_id, topic FROM hookline_fence WHERE {} LIMIT 1", is_foreign(context))
}

/// The number of events of a partition up to a position.
pub(super) fn count(partition: i32, up_to: Position) -> String {
    let Position { offset, ordinal } = up_to;
    format!(
        "SELECT COUNT(*) FROM hookline_events WHERE log_partition = {partition} \
         AND (effect_offset < {offset} OR (effect_offset = {offset} AND effect_ordinal <= {ordinal}))"
    )
}

/// A name as it is, in capitals or not, and whatever it holds.
pub(super) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

fn move_fence(batch: &Batch<'_>) -> Result<String, SinkError> {
    let (from, to) = (StoredFence::of(&batch.from)?, StoredFence::of(&batch.to)?);
    Ok(format!(
        "UPDATE hookline_fence SET effect_offset = {}, effect_ordinal = {}, digest = {}, updated_at = SYSDATE()
  WHERE log_partition = {} AND effect_offset = {} AND effect_ordinal = {} AND lineage = {} AND claim = {}",
        to.offset,
        to.ordinal,
        bytes(&to.digest),
        batch.partition,
        from.offset,
        from.ordinal,
        from.lineage,
        from.claim
    ))
}

/// The offset stands in the condition once more as a number: by it, Snowflake leaves out all that is older.
fn merge_events(partition: i32, offset_min: i64) -> String {
    format!(
        "MERGE INTO hookline_events AS applied
  USING hookline_batch AS event
  ON applied.log_partition = {partition} AND applied.effect_offset >= {offset_min}
    AND applied.effect_offset = event.effect_offset AND applied.effect_ordinal = event.effect_ordinal
  WHEN NOT MATCHED THEN INSERT (log_partition, effect_offset, effect_ordinal, source, connection, event_id, type,
    entity, sequence, event_time, content_type, received_at, log_offset, appended_at, traceparent, body)
    VALUES ({partition}, event.effect_offset, event.effect_ordinal, event.source, event.connection, event.event_id,
    event.type, event.entity, event.sequence, event.event_time, event.content_type, event.received_at,
    event.log_offset, event.appended_at, event.traceparent, event.body)"
    )
}

fn is_foreign(context: &Context) -> String {
    let Context { pipeline, cluster_id, topic, .. } = context;
    format!(
        "pipeline <> {} OR cluster_id <> {} OR topic <> {}",
        text(pipeline),
        text(cluster_id),
        text(topic)
    )
}

/// Raises an exception when a count of the step before is so.
pub(super) fn raise_if(count: &str, exception: &str) -> String {
    format!("IF ({count}) THEN\n  RAISE {exception};\nEND IF")
}

/// All or nothing of some steps, in one statement. A failure of any of them undoes all, and is the block's.
fn block(steps: &[String]) -> String {
    let steps: String = steps.iter().map(|step| format!("  {};\n", step.replace('\n', "\n  "))).collect();
    format!(
        "EXECUTE IMMEDIATE $$
DECLARE
  {FENCED} EXCEPTION (-20001, '{FENCED}');
  {OCCUPIED} EXCEPTION (-20002, '{OCCUPIED}');
  {OVERTAKEN} EXCEPTION (-20003, '{OVERTAKEN}');
BEGIN
  BEGIN TRANSACTION;
{steps}  COMMIT;
EXCEPTION
  WHEN OTHER THEN
    ROLLBACK;
    RAISE;
END;
$$"
    )
}

/// A text in a statement. In a block, a `$` is written by its number, since two of them end the block.
pub(super) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', "''").replace('$', r"\x24"))
}

fn bytes(value: &[u8]) -> String {
    let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("TO_BINARY('{digits}', 'HEX')")
}

/// Snowflake itself runs in no test: what it is given is looked at, and kept. `HOOKLINE_RENEW_GOLDEN=1` writes the
/// files anew.
#[cfg(test)]
pub(super) fn golden(name: &str, text: &str) {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/snowflake");
    let path = directory.join(name);
    if std::env::var_os("HOOKLINE_RENEW_GOLDEN").is_some() {
        std::fs::write(&path, format!("{text}\n")).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert_eq!(format!("{text}\n"), kept, "{name}; HOOKLINE_RENEW_GOLDEN=1 writes it anew");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fold::{Action, Effect};
    use crate::frame::Frame;
    use crate::position::Digest;
    use rdkafka::message::Headers as _;
    use shared::event::Event;

    fn effect(offset: i64, entity: Option<&str>) -> Effect {
        let event = Event {
            id: "e".into(),
            source: "github".into(),
            entity: entity.map(Into::into),
            ..Event::default()
        };
        let headers = event.to_headers();
        let frame = Frame::pack(None, headers.iter().map(|h| (h.key, h.value)), Some(b"{}"));
        let position = Position { offset, ordinal: 0 };
        Effect {
            position,
            event_offset: offset,
            event_time_ms: 0,
            cause: frame.clone(),
            frame,
            action: Action::Apply,
        }
    }

    fn delivered(effects: &[Effect]) -> String {
        let epoch = Epoch { lineage: 1, claim: 42 };
        let from = Fence { position: Position { offset: 6, ordinal: 2 }, digest: Digest([1; 16]), epoch };
        let to = Fence { position: Position { offset: 9, ordinal: 0 }, digest: Digest([0xab; 16]), epoch };
        let batch = Batch { partition: 3, from, to, effects };
        deliver(&batch, &rows::of(&batch).unwrap(), &[]).unwrap()
    }

    #[test]
    fn the_blocks_are_as_they_were_looked_at() {
        let context = Context {
            pipeline: "shop".into(),
            cluster_id: "c-1".into(),
            topic: "t".into(),
            ..Context::default()
        };
        let blocks = [
            ("claim.sql", claim(&context, 3, Epoch { lineage: 1, claim: 42 }).unwrap()),
            ("deliver.sql", delivered(&[effect(7, Some("order-1")), effect(9, None)])),
            ("deliver_without_entities.sql", delivered(&[effect(7, None)])),
            ("deliver_nothing.sql", delivered(&[])),
            ("stage.sql", stage(true)),
            ("stage_mapped.sql", stage_mapped(true)),
        ];
        for (name, block) in blocks {
            golden(name, &block);
        }
    }

    #[test]
    fn a_text_ends_neither_itself_nor_its_block() {
        assert_eq!(text(r"a'b\$$"), r"'a''b\\\x24\x24'");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_quotes() {
        assert_eq!(quoted(r#"a"; DROP"#), r#""a""; DROP""#);
    }
}
