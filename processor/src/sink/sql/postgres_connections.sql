-- How each connection stands, by the last event that told it; the times are RFC 3339, as the events have them.
CREATE TABLE {table} (
    source text NOT NULL,
    connection text NOT NULL,
    status text NOT NULL,
    since text NOT NULL,
    previous text,
    reason text,
    event_id text NOT NULL,
    event_type text NOT NULL,
    time text NOT NULL,
    log_partition int NOT NULL,
    effect_offset bigint NOT NULL,
    effect_ordinal int NOT NULL,
    PRIMARY KEY (source, connection)
);
