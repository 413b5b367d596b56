-- Version 1 of the Snowflake sink's tables. Each statement may be run again: Snowflake has no transactions for them.
-- Nothing enforces keys there: the blocks that write keep them. Times are UTC.
CREATE TABLE IF NOT EXISTS hookline_schema (
    version NUMBER(10, 0) NOT NULL,
    installed_at TIMESTAMP_NTZ(3) NOT NULL
);

-- One row per applied event; partition, offset and ordinal are the order in which they were applied, per partition.
CREATE TABLE IF NOT EXISTS hookline_events (
    log_partition NUMBER(10, 0) NOT NULL,
    effect_offset NUMBER(19, 0) NOT NULL,
    effect_ordinal NUMBER(10, 0) NOT NULL,
    source VARCHAR NOT NULL,
    connection VARCHAR NOT NULL,
    event_id VARCHAR NOT NULL,
    type VARCHAR NOT NULL,
    entity VARCHAR,
    sequence VARCHAR,
    event_time VARCHAR,
    content_type VARCHAR,
    received_at TIMESTAMP_NTZ(3) NOT NULL,
    log_offset NUMBER(19, 0) NOT NULL,
    appended_at TIMESTAMP_NTZ(3) NOT NULL,
    traceparent VARCHAR,
    body BINARY(67108864) NOT NULL
);

-- The event applied last of each entity.
CREATE TABLE IF NOT EXISTS hookline_entities (
    source VARCHAR NOT NULL,
    connection VARCHAR NOT NULL,
    entity VARCHAR NOT NULL,
    event_id VARCHAR NOT NULL,
    type VARCHAR NOT NULL,
    sequence VARCHAR,
    body BINARY(67108864) NOT NULL,
    log_partition NUMBER(10, 0) NOT NULL,
    effect_offset NUMBER(19, 0) NOT NULL,
    effect_ordinal NUMBER(10, 0) NOT NULL,
    updated TIMESTAMP_NTZ(3) NOT NULL
);

-- How far each partition is applied, and by whose hand: the truth about what was applied.
CREATE TABLE IF NOT EXISTS hookline_fence (
    log_partition NUMBER(10, 0) NOT NULL,
    pipeline VARCHAR NOT NULL,
    cluster_id VARCHAR NOT NULL,
    topic VARCHAR NOT NULL,
    effect_offset NUMBER(19, 0) NOT NULL,
    effect_ordinal NUMBER(10, 0) NOT NULL,
    digest BINARY(16) NOT NULL,
    lineage NUMBER(19, 0) NOT NULL,
    claim NUMBER(19, 0) NOT NULL,
    updated_at TIMESTAMP_NTZ(3) NOT NULL
);
