-- The tables of hookline.toml. SQLite has no type for times and exact decimals: text.
CREATE TABLE purchase_orders (
    connection TEXT NOT NULL,
    number TEXT NOT NULL,
    changed_at TEXT NOT NULL,
    currency TEXT,
    vendor TEXT,
    supplier TEXT,
    PRIMARY KEY (connection, number)
);

CREATE TABLE purchase_order_lines (
    connection TEXT NOT NULL,
    number TEXT NOT NULL,
    line TEXT NOT NULL,
    material TEXT,
    quantity TEXT,
    net_price TEXT,
    PRIMARY KEY (connection, number, line),
    FOREIGN KEY (connection, number) REFERENCES purchase_orders (connection, number)
);

-- Ours: the supplier's number for SAP's vendor.
CREATE TABLE suppliers (
    vendor TEXT NOT NULL PRIMARY KEY,
    number TEXT NOT NULL
);
