-- How each connection stands, by the last event that told it; the times are RFC 3339, as the events have them. The key
-- is a digest of source and connection: as text they are too long for one, and would compare equal up to trailing
-- spaces.
CREATE TABLE IF NOT EXISTS {table} (
    connection_key BINARY(32) NOT NULL PRIMARY KEY,
    source VARCHAR(1024) NOT NULL,
    connection VARCHAR(1024) NOT NULL,
    status VARCHAR(64) NOT NULL,
    since VARCHAR(1024) NOT NULL,
    previous VARCHAR(64),
    reason VARCHAR(1024),
    event_id VARCHAR(1024) NOT NULL,
    event_type VARCHAR(1024) NOT NULL,
    time VARCHAR(1024) NOT NULL,
    log_partition INT NOT NULL,
    effect_offset BIGINT NOT NULL,
    effect_ordinal INT NOT NULL,
    KEY (source(64), connection(191))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
