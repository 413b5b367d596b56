-- The tables of hookline.toml. The role needs SELECT, INSERT, UPDATE and DELETE on the first two, SELECT on the third.
CREATE TABLE purchase_orders (
    connection text NOT NULL,
    number text NOT NULL,
    changed_at timestamptz NOT NULL,
    currency text,
    vendor text,
    supplier text,
    PRIMARY KEY (connection, number)
);

CREATE TABLE purchase_order_lines (
    connection text NOT NULL,
    number text NOT NULL,
    line text NOT NULL,
    material text,
    quantity numeric,
    net_price numeric,
    PRIMARY KEY (connection, number, line),
    FOREIGN KEY (connection, number) REFERENCES purchase_orders (connection, number)
);

-- Ours: the supplier's number for SAP's vendor.
CREATE TABLE suppliers (
    vendor text NOT NULL PRIMARY KEY,
    number text NOT NULL
);
