-- Version 1 of the MySQL sink's tables. Each statement may be run again: MySQL has no transactions for them.
-- Text compares by its bytes. Times are UTC.
CREATE TABLE IF NOT EXISTS hookline_schema (
    version INT NOT NULL PRIMARY KEY,
    installed_at DATETIME(3) NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One row per applied event; the primary key is the order in which they were applied, per partition.
CREATE TABLE IF NOT EXISTS hookline_events (
    log_partition INT NOT NULL,
    effect_offset BIGINT NOT NULL,
    effect_ordinal INT NOT NULL,
    source VARCHAR(1024) NOT NULL,
    connection VARCHAR(1024) NOT NULL,
    event_id VARCHAR(1024) NOT NULL,
    type VARCHAR(1024) NOT NULL,
    entity VARCHAR(1024),
    sequence VARCHAR(1024),
    event_time VARCHAR(1024),
    content_type TEXT,
    received_at DATETIME(3) NOT NULL,
    log_offset BIGINT NOT NULL,
    appended_at DATETIME(3) NOT NULL,
    traceparent TEXT,
    body LONGBLOB NOT NULL,
    PRIMARY KEY (log_partition, effect_offset, effect_ordinal),
    KEY hookline_events_by_id (source(64), connection(64), event_id(191)),
    KEY hookline_events_by_entity
        (source(64), connection(64), entity(191), log_partition, effect_offset, effect_ordinal)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The event applied last of each entity. Its key is a digest of source, connection and entity: as text they
-- are too long for a key, and would compare equal up to trailing spaces.
CREATE TABLE IF NOT EXISTS hookline_entities (
    entity_key BINARY(32) NOT NULL PRIMARY KEY,
    source VARCHAR(1024) NOT NULL,
    connection VARCHAR(1024) NOT NULL,
    entity VARCHAR(1024) NOT NULL,
    event_id VARCHAR(1024) NOT NULL,
    type VARCHAR(1024) NOT NULL,
    sequence VARCHAR(1024),
    body LONGBLOB NOT NULL,
    log_partition INT NOT NULL,
    effect_offset BIGINT NOT NULL,
    effect_ordinal INT NOT NULL,
    updated DATETIME(3) NOT NULL,
    KEY hookline_entities_by_name (source(64), connection(64), entity(191))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- How far each partition is applied, and by whose hand: the truth about what was applied.
CREATE TABLE IF NOT EXISTS hookline_fence (
    log_partition INT NOT NULL PRIMARY KEY,
    pipeline VARCHAR(255) NOT NULL,
    cluster_id VARCHAR(255) NOT NULL,
    topic VARCHAR(255) NOT NULL,
    effect_offset BIGINT NOT NULL,
    effect_ordinal INT NOT NULL,
    digest BINARY(16) NOT NULL,
    lineage BIGINT NOT NULL,
    claim BIGINT NOT NULL,
    updated_at DATETIME(3) NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
