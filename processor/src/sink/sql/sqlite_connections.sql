-- How each connection stands, by the last event that told it; the times are RFC 3339, as the events have them.
CREATE TABLE {table} (
    source TEXT NOT NULL,
    connection TEXT NOT NULL,
    status TEXT NOT NULL,
    since TEXT NOT NULL,
    previous TEXT,
    reason TEXT,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    time TEXT NOT NULL,
    log_partition INTEGER NOT NULL,
    effect_offset INTEGER NOT NULL,
    effect_ordinal INTEGER NOT NULL,
    PRIMARY KEY (source, connection)
);
