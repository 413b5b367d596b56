// The collections of hookline.toml, for mongosh. An order that was deleted keeps its key, and so its guard: leave it
// out by { hookline_deleted: { $exists: false } }.
db.createCollection("purchase_orders");
// Ours: the supplier's number for SAP's vendor.
db.createCollection("suppliers");
db.suppliers.createIndex({ vendor: 1 }, { unique: true });
