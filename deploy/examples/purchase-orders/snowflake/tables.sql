-- The tables of hookline.toml. The role needs SELECT, INSERT, UPDATE and DELETE on the first two, SELECT on the third.
-- Snowflake enforces no key, and Hookline's MERGE keeps it: let nothing else write to the first two.
CREATE TABLE purchase_orders (
    connection VARCHAR NOT NULL,
    number VARCHAR NOT NULL,
    changed_at TIMESTAMP_NTZ NOT NULL,
    currency VARCHAR,
    vendor VARCHAR,
    supplier VARCHAR,
    PRIMARY KEY (connection, number)
);

CREATE TABLE purchase_order_lines (
    connection VARCHAR NOT NULL,
    number VARCHAR NOT NULL,
    line VARCHAR NOT NULL,
    material VARCHAR,
    quantity NUMBER(38, 6),
    net_price NUMBER(38, 6),
    PRIMARY KEY (connection, number, line)
);

-- Ours: the supplier's number for SAP's vendor.
CREATE TABLE suppliers (
    vendor VARCHAR NOT NULL PRIMARY KEY,
    number VARCHAR NOT NULL
);
