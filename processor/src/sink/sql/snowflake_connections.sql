-- How each connection stands, by the last event that told it; the times are RFC 3339, as the events have them. One row
-- for each source and connection: the blocks that write keep that.
CREATE TABLE IF NOT EXISTS {table} (
    source VARCHAR NOT NULL,
    connection VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    since VARCHAR NOT NULL,
    previous VARCHAR,
    reason VARCHAR,
    event_id VARCHAR NOT NULL,
    event_type VARCHAR NOT NULL,
    time VARCHAR NOT NULL,
    log_partition NUMBER(10, 0) NOT NULL,
    effect_offset NUMBER(19, 0) NOT NULL,
    effect_ordinal NUMBER(10, 0) NOT NULL
);
