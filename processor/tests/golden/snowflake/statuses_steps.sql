MERGE INTO "HOOKLINE_CONNECTIONS" AS kept
  USING (SELECT content['source']::VARCHAR AS source, content['connection']::VARCHAR AS connection,
    content['status']::VARCHAR AS status, content['since']::VARCHAR AS since,
    content['previous']::VARCHAR AS previous, content['reason']::VARCHAR AS reason,
    content['event_id']::VARCHAR AS event_id, content['event_type']::VARCHAR AS event_type,
    content['time']::VARCHAR AS time, content['effect_offset']::NUMBER(19, 0) AS effect_offset,
    content['effect_ordinal']::NUMBER(10, 0) AS effect_ordinal, content['read_partition']::NUMBER(10, 0) AS read_partition,
    content['read_offset']::NUMBER(19, 0) AS read_offset, content['read_ordinal']::NUMBER(10, 0) AS read_ordinal
    FROM hookline_mapped WHERE part = 1000000) AS told
  ON kept.source = told.source AND kept.connection = told.connection
  WHEN MATCHED AND kept.log_partition = told.read_partition AND kept.effect_offset = told.read_offset
    AND kept.effect_ordinal = told.read_ordinal THEN UPDATE SET status = told.status, since = told.since,
    previous = told.previous, reason = told.reason, event_id = told.event_id, event_type = told.event_type,
    time = told.time, log_partition = 3, effect_offset = told.effect_offset,
    effect_ordinal = told.effect_ordinal
  WHEN NOT MATCHED THEN INSERT (source, connection, status, since, previous, reason, event_id, event_type, time,
    log_partition, effect_offset, effect_ordinal)
    VALUES (told.source, told.connection, told.status, told.since, told.previous, told.reason, told.event_id,
    told.event_type, told.time, 3, told.effect_offset, told.effect_ordinal);
IF (SQLROWCOUNT <> 2) THEN
  RAISE HOOKLINE_OVERTAKEN;
END IF
