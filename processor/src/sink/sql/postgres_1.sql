-- Version 1 of the PostgreSQL sink's tables.
CREATE TABLE {schema}.hookline_schema (
    version int NOT NULL PRIMARY KEY,
    installed_at timestamptz NOT NULL DEFAULT now()
);

-- One row per applied event; the primary key is the order in which they were applied, per partition.
CREATE TABLE {schema}.hookline_events (
    log_partition int NOT NULL,
    effect_offset bigint NOT NULL,
    effect_ordinal int NOT NULL,
    source text NOT NULL,
    connection text NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    entity text,
    sequence text,
    event_time text,
    content_type text,
    received_at timestamptz NOT NULL,
    log_offset bigint NOT NULL,
    appended_at timestamptz NOT NULL,
    traceparent text,
    body bytea NOT NULL,
    CONSTRAINT hookline_events_pkey PRIMARY KEY (log_partition, effect_offset, effect_ordinal)
);
CREATE INDEX hookline_events_by_id ON {schema}.hookline_events (source, connection, event_id);
CREATE INDEX hookline_events_by_entity
    ON {schema}.hookline_events (source, connection, entity, log_partition, effect_offset, effect_ordinal);

-- The event applied last of each entity.
CREATE TABLE {schema}.hookline_entities (
    source text NOT NULL,
    connection text NOT NULL,
    entity text NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    sequence text,
    body bytea NOT NULL,
    log_partition int NOT NULL,
    effect_offset bigint NOT NULL,
    effect_ordinal int NOT NULL,
    updated timestamptz NOT NULL,
    CONSTRAINT hookline_entities_pkey PRIMARY KEY (source, connection, entity)
);

-- How far each partition is applied, and by whose hand: the truth about what was applied. Each batch updates
-- one row: the free space lets the new version stand on the same page.
CREATE TABLE {schema}.hookline_fence (
    log_partition int NOT NULL PRIMARY KEY,
    pipeline text NOT NULL,
    cluster_id text NOT NULL,
    topic text NOT NULL,
    effect_offset bigint NOT NULL,
    effect_ordinal int NOT NULL,
    digest bytea NOT NULL,
    lineage bigint NOT NULL,
    claim bigint NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 50);
