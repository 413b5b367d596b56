-- Version 1 of the SQLite sink's tables.
CREATE TABLE hookline_schema (
    version INTEGER NOT NULL PRIMARY KEY,
    installed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);

-- One row per applied event; the primary key is the order in which they were applied, per partition.
CREATE TABLE hookline_events (
    log_partition INTEGER NOT NULL,
    effect_offset INTEGER NOT NULL,
    effect_ordinal INTEGER NOT NULL,
    source TEXT NOT NULL,
    connection TEXT NOT NULL,
    event_id TEXT NOT NULL,
    type TEXT NOT NULL,
    entity TEXT,
    sequence TEXT,
    event_time TEXT,
    content_type TEXT,
    received_at TEXT NOT NULL,
    log_offset INTEGER NOT NULL,
    appended_at TEXT NOT NULL,
    traceparent TEXT,
    -- No type: text stays text and bytes stay bytes.
    body NOT NULL,
    PRIMARY KEY (log_partition, effect_offset, effect_ordinal)
);
CREATE INDEX hookline_events_by_id ON hookline_events (source, connection, event_id);
CREATE INDEX hookline_events_by_entity
    ON hookline_events (source, connection, entity, log_partition, effect_offset, effect_ordinal);

-- The event applied last of each entity.
CREATE TABLE hookline_entities (
    source TEXT NOT NULL,
    connection TEXT NOT NULL,
    entity TEXT NOT NULL,
    event_id TEXT NOT NULL,
    type TEXT NOT NULL,
    sequence TEXT,
    body NOT NULL,
    log_partition INTEGER NOT NULL,
    effect_offset INTEGER NOT NULL,
    effect_ordinal INTEGER NOT NULL,
    updated TEXT NOT NULL,
    PRIMARY KEY (source, connection, entity)
);

-- How far each partition is applied, and by whose hand: the truth about what was applied.
CREATE TABLE hookline_fence (
    log_partition INTEGER NOT NULL PRIMARY KEY,
    pipeline TEXT NOT NULL,
    cluster_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    effect_offset INTEGER NOT NULL,
    effect_ordinal INTEGER NOT NULL,
    digest BLOB NOT NULL,
    lineage INTEGER NOT NULL,
    claim INTEGER NOT NULL,
    updated_at TEXT NOT NULL
);
