EXECUTE IMMEDIATE $$
DECLARE
  HOOKLINE_FENCED EXCEPTION (-20001, 'HOOKLINE_FENCED');
  HOOKLINE_OCCUPIED EXCEPTION (-20002, 'HOOKLINE_OCCUPIED');
  HOOKLINE_OVERTAKEN EXCEPTION (-20003, 'HOOKLINE_OVERTAKEN');
BEGIN
  BEGIN TRANSACTION;
  UPDATE hookline_fence SET effect_offset = 9, effect_ordinal = 0, digest = TO_BINARY('abababababababababababababababab', 'HEX'), updated_at = SYSDATE()
    WHERE log_partition = 3 AND effect_offset = 6 AND effect_ordinal = 2 AND lineage = 1 AND claim = 42;
  IF (SQLROWCOUNT = 0) THEN
    RAISE HOOKLINE_FENCED;
  END IF;
  MERGE INTO hookline_events AS applied
    USING hookline_batch AS event
    ON applied.log_partition = 3 AND applied.effect_offset >= 7
      AND applied.effect_offset = event.effect_offset AND applied.effect_ordinal = event.effect_ordinal
    WHEN NOT MATCHED THEN INSERT (log_partition, effect_offset, effect_ordinal, source, connection, event_id, type,
      entity, sequence, event_time, content_type, received_at, log_offset, appended_at, traceparent, body)
      VALUES (3, event.effect_offset, event.effect_ordinal, event.source, event.connection, event.event_id,
      event.type, event.entity, event.sequence, event.event_time, event.content_type, event.received_at,
      event.log_offset, event.appended_at, event.traceparent, event.body);
  IF (SQLROWCOUNT <> 2) THEN
    RAISE HOOKLINE_OCCUPIED;
  END IF;
  MERGE INTO hookline_entities AS shown
    USING (SELECT * FROM hookline_batch WHERE is_last) AS event
    ON shown.source = event.source AND shown.connection = event.connection AND shown.entity = event.entity
    WHEN MATCHED THEN UPDATE SET event_id = event.event_id, type = event.type, sequence = event.sequence,
      body = event.body, log_partition = 3, effect_offset = event.effect_offset,
      effect_ordinal = event.effect_ordinal, updated = event.appended_at
    WHEN NOT MATCHED THEN INSERT (source, connection, entity, event_id, type, sequence, body, log_partition,
      effect_offset, effect_ordinal, updated)
      VALUES (event.source, event.connection, event.entity, event.event_id, event.type, event.sequence, event.body,
      3, event.effect_offset, event.effect_ordinal, event.appended_at);
  COMMIT;
EXCEPTION
  WHEN OTHER THEN
    ROLLBACK;
    RAISE;
END;
$$
