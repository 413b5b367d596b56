//! A record of the API: made, changed, and written as JSON.

use serde_json::{Map, Number, Value, json};

use super::resource::Resource;
use crate::bodies::{CURRENCIES, MATERIALS, UNITS, VENDORS};
use crate::rng::Rng;

const COUNTRIES: [&str; 5] = ["DE", "DK", "PL", "JP", "FR"];
const TASKS: [&str; 4] =
    ["Replace bearing", "Check pressure 🔧", "Calibrate sensor", "Überdruckventil prüfen"];

/// A record as it is now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) id: String,
    /// 1, 2, 3… with each change, no number left out.
    pub(crate) revision: u64,
    /// When it was changed last, in milliseconds since 1970; rises with each change.
    pub(crate) updated_ms: i64,
    /// All else.
    fields: Map<String, Value>,
}

impl Record {
    /// The `n`th record that a connection has had in a list, in its first revision.
    pub(crate) fn new(rng: &mut Rng, resource: Resource, n: u64, at_ms: i64) -> Self {
        let (id, number) = match resource {
            Resource::PurchaseOrders => (format!("po_{n:06}"), format!("45{n:08}")),
            Resource::Suppliers => (format!("sup_{n:06}"), format!("{:010}", 100_000 + n)),
            Resource::WorkOrders => (format!("wo_{n:06}"), format!("WO-{n:05}")),
            Resource::Assets => (format!("PUMP/CR-32 {n:04}"), format!("A{n:06}")),
        };
        let mut record = Self { id, revision: 1, updated_ms: at_ms, fields: Map::new() };
        record.put("number", number);
        record.put("created_at", rfc3339_ms(at_ms));
        record.fill(rng, resource);
        record
    }

    /// The next revision, at least a millisecond after the last.
    pub(crate) fn change(&mut self, rng: &mut Rng, resource: Resource, at_ms: i64) {
        self.revision += 1;
        self.updated_ms = at_ms.max(self.updated_ms + 1);
        self.fill(rng, resource);
    }

    /// As the API and its webhooks write it.
    pub(crate) fn to_json(&self) -> Value {
        let mut all = self.fields.clone();
        all.insert("id".to_owned(), self.id.as_str().into());
        all.insert("revision".to_owned(), self.revision.into());
        all.insert("updated_at".to_owned(), rfc3339_ms(self.updated_ms).into());
        Value::Object(all)
    }

    fn put(&mut self, field: &str, value: impl Into<Value>) {
        self.fields.insert(field.to_owned(), value.into());
    }

    fn fill(&mut self, rng: &mut Rng, resource: Resource) {
        let vendor = *rng.pick(&VENDORS);
        match resource {
            Resource::PurchaseOrders => {
                let lines: Vec<Value> = (1..=1 + rng.below(3)).map(|line| order_line(rng, line)).collect();
                self.put("status", *rng.pick(&["draft", "released", "confirmed", "closed"]));
                self.put("currency", *rng.pick(&CURRENCIES));
                self.put("vendor", json!({ "id": vendor.0, "name": unescaped(vendor.1) }));
                self.put("lines", lines);
            }
            Resource::Suppliers => {
                self.put("name", unescaped(vendor.1));
                self.put("country", *rng.pick(&COUNTRIES));
                self.put("blocked", rng.chance(10));
                self.put("payment_days", 10 * (1 + rng.below(9)));
            }
            Resource::WorkOrders => {
                self.put("title", *rng.pick(&TASKS));
                self.put("status", *rng.pick(&["open", "scheduled", "in_progress", "done"]));
                self.put("priority", 1 + rng.below(4));
                self.put("hours", decimal(rng.below(2_000), 2));
            }
            Resource::Assets => {
                self.put("name", *rng.pick(&MATERIALS));
                self.put("status", *rng.pick(&["running", "standby", "down"]));
                self.put("running_hours", decimal(rng.below(900_000), 1));
            }
        }
    }
}

fn order_line(rng: &mut Rng, line: usize) -> Value {
    json!({
        "line": format!("{:05}", line * 10),
        "material": *rng.pick(&MATERIALS),
        "quantity": decimal((1 + rng.below(900)) * 1_000, 3),
        "unit": *rng.pick(&UNITS),
        "net_price": decimal(100 + rng.below(90_000), 2),
    })
}

/// A number with `digits` after its point, trailing zeros and all: they must reach the table.
fn decimal(unscaled: usize, digits: u32) -> Value {
    let scale = 10_usize.pow(digits);
    let text = format!("{}.{:0width$}", unscaled / scale, unscaled % scale, width = digits as usize);
    text.parse::<Number>().map_or(Value::Null, Value::Number)
}

/// A text that stands in `bodies` with JSON's escapes.
fn unescaped(text: &str) -> Value {
    serde_json::from_str(&format!("\"{text}\"")).unwrap_or(Value::Null)
}

/// RFC 3339 in UTC, always with milliseconds.
pub(crate) fn rfc3339_ms(ms: i64) -> String {
    format!("{:.3}", jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_raises_revision_and_time_even_within_one_millisecond() {
        let mut rng = Rng::new(1);
        for resource in Resource::ALL {
            let mut record = Record::new(&mut rng, resource, 7, 1_767_600_000_000);
            record.change(&mut rng, resource, 1_767_600_000_000);
            let json = record.to_json();
            assert_eq!((json["revision"].as_u64(), record.revision), (Some(2), 2));
            assert_eq!(json["updated_at"], "2026-01-05T08:00:00.001Z");
            assert_eq!(json["created_at"], "2026-01-05T08:00:00.000Z");
        }
    }

    #[test]
    fn numbers_keep_their_zeros_and_names_their_quotes() {
        assert_eq!(decimal(12_000, 3).to_string(), "12.000");
        assert_eq!(decimal(5, 2).to_string(), "0.05");
        assert_eq!(unescaped(VENDORS[4].1), "Aciéries du Rhône \"AdR\"");
    }
}
