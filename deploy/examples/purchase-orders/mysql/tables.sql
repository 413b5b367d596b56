-- The tables of hookline.toml. A key compares by its bytes: a collation that ends in _bin.
CREATE TABLE purchase_orders (
    connection VARCHAR(200) NOT NULL,
    number VARCHAR(200) NOT NULL,
    changed_at DATETIME(6) NOT NULL,
    currency VARCHAR(200),
    vendor VARCHAR(200),
    supplier VARCHAR(200),
    PRIMARY KEY (connection, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE purchase_order_lines (
    connection VARCHAR(200) NOT NULL,
    number VARCHAR(200) NOT NULL,
    line VARCHAR(200) NOT NULL,
    material VARCHAR(200),
    quantity DECIMAL(20, 4),
    net_price DECIMAL(20, 4),
    PRIMARY KEY (connection, number, line),
    FOREIGN KEY (connection, number) REFERENCES purchase_orders (connection, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Ours: the supplier's number for SAP's vendor.
CREATE TABLE suppliers (
    vendor VARCHAR(200) NOT NULL PRIMARY KEY,
    number VARCHAR(200) NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
