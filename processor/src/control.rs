//! Control records: what else than an event can change the fold's outcome. They stand in the event log
//! beside the events, name their pipeline, and carry who appended them and why.
//!
//! A control record is a CloudEvents event like any other: source `hookline`, type `hookline.control.*`, a
//! JSON body. The key of `gap-expired` and `gap-skip` is the entity's; `config` has the pipeline's name.
//!
//! A program passes over types that it does not know. So a type that changes outcomes is obeyed under a version of the
//! fold that those programs refuse, and under no earlier one.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::event::{CONTROL_PREFIX, CONTROL_SOURCE, Event, EventView};

use crate::fold::FoldConfig;
use crate::position::Epoch;

/// The type of [`Control::Config`].
const CONFIG: &str = "config";
/// The type of [`Control::GapExpired`].
const GAP_EXPIRED: &str = "gap-expired";
/// The type of [`Control::GapSkip`].
const GAP_SKIP: &str = "gap-skip";

/// A control record's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// The fold's configuration, in force from here.
    Config(ConfigRecord),
    /// A gap's wait is over.
    GapExpired(GapExpired),
    /// An operator goes on without what is missing.
    GapSkip(GapSkip),
}

/// The fold's configuration, in force from this record's offset; the first one of a pipeline in a partition
/// counts from the partition's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigRecord {
    /// Whose.
    pub pipeline: String,
    /// The owner of the partition that appended it; one of an earlier owner is not obeyed.
    pub epoch: Epoch,
    /// The configuration.
    pub fold: FoldConfig,
    /// Which instance.
    pub by: String,
    /// What for.
    pub why: String,
}

/// A gap's wait is over. Obeyed only if it names the gap that stands, and was itself appended after the
/// gap's deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GapExpired {
    /// Whose.
    pub pipeline: String,
    /// The number that is missing; `None` while the first is looked for.
    pub next: Option<u64>,
    /// The offset of the record that opened the gap.
    pub opened_at: i64,
    /// The step of the gap's policy; each has one, 0.
    pub stage: u8,
    /// Which instance.
    pub by: String,
    /// What for.
    pub why: String,
}

/// An operator goes on without what is missing. Obeyed only if it names the gap that stands, whatever its deadline,
/// from version 2 of the fold on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GapSkip {
    /// Whose.
    pub pipeline: String,
    /// The number that is missing; `None` while the first is looked for.
    pub next: Option<u64>,
    /// The offset of the record that opened the gap.
    pub opened_at: i64,
    /// Who decided it.
    pub by: String,
    /// What for.
    pub why: String,
}

/// A record of type `hookline.control.*` that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum NotAControl {
    /// A type that this program does not know.
    #[error("control record of unknown type {0}")]
    Type(String),
    /// A body that is not what the type says.
    #[error("control record of type {0} is malformed: {1}")]
    Body(&'static str, serde_json::Error),
}

impl Control {
    /// Reads a control record.
    ///
    /// # Errors
    /// It cannot be understood.
    pub fn parse(event: &EventView<'_>, body: &[u8]) -> Result<Self, NotAControl> {
        match event.kind.strip_prefix(CONTROL_PREFIX) {
            Some(CONFIG) => config_from(body).map(Self::Config).map_err(|e| NotAControl::Body(CONFIG, e)),
            Some(GAP_EXPIRED) => serde_json::from_slice(body)
                .map(Self::GapExpired)
                .map_err(|e| NotAControl::Body(GAP_EXPIRED, e)),
            Some(GAP_SKIP) => {
                serde_json::from_slice(body).map(Self::GapSkip).map_err(|e| NotAControl::Body(GAP_SKIP, e))
            }
            Some(_) | None => Err(NotAControl::Type(event.kind.to_owned())),
        }
    }

    /// The event and the body to append.
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn to_event(&self, now: jiff::Timestamp) -> Result<(Event, Vec<u8>), serde_json::Error> {
        let (kind, body, id) = match self {
            Self::Config(c) => (CONFIG, config_to(c)?, format!("{}-config-{}", c.pipeline, c.epoch)),
            Self::GapExpired(g) => {
                let id = format!("{}-gap-{}-{}", g.pipeline, g.opened_at, now.as_millisecond());
                (GAP_EXPIRED, serde_json::to_vec(g)?, id)
            }
            Self::GapSkip(g) => {
                let id = format!("{}-gap-skip-{}-{}", g.pipeline, g.opened_at, now.as_millisecond());
                (GAP_SKIP, serde_json::to_vec(g)?, id)
            }
        };
        let event = Event {
            id,
            source: CONTROL_SOURCE.to_owned(),
            kind: format!("{CONTROL_PREFIX}{kind}"),
            time: now.to_string(),
            content_type: Some("application/json".to_owned()),
            received_at_ms: now.as_millisecond(),
            ..Event::default()
        };
        Ok((event, body))
    }
}

/// Where a gap policy stands that programs of the fold's first version cannot read. To them it is `skip`, so that they
/// read the record, see its version, and stop; one that they could not read they would pass over.
const LATER_POLICY: &str = "later_gap_policy";
/// Where it stands in an [`crate::fold::Order`].
const POLICY: &str = "gap_policy";
/// What all programs read there.
const SKIP: &str = "skip";

fn config_to(config: &ConfigRecord) -> Result<Vec<u8>, serde_json::Error> {
    let mut value = serde_json::to_value(config)?;
    each_object(&mut value, &|object| {
        if object.get(POLICY).is_some_and(|policy| policy.is_string() && policy != SKIP)
            && let Some(policy) = object.insert(POLICY.to_owned(), SKIP.into())
        {
            object.insert(LATER_POLICY.to_owned(), policy);
        }
    });
    serde_json::to_vec(&value)
}

fn config_from(body: &[u8]) -> Result<ConfigRecord, serde_json::Error> {
    let mut value = serde_json::from_slice(body)?;
    each_object(&mut value, &|object| {
        // A source may have this name, too.
        if object.get(LATER_POLICY).is_some_and(Value::is_string)
            && let Some(policy) = object.remove(LATER_POLICY)
        {
            object.insert(POLICY.to_owned(), policy);
        }
    });
    serde_json::from_value(value)
}

/// A body is shallow: serde_json reads none that is nested deeper than 128.
fn each_object(value: &mut Value, change: &dyn Fn(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            change(object);
            object.values_mut().for_each(|value| each_object(value, change));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| each_object(value, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    #[test]
    fn control_records_survive_the_log() {
        let gap = Control::GapExpired(GapExpired {
            pipeline: "p".into(),
            next: Some(7),
            opened_at: 12,
            stage: 0,
            by: "p-0".into(),
            why: "the wait is over".into(),
        });
        let skip = Control::GapSkip(GapSkip {
            pipeline: "p".into(),
            next: None,
            opened_at: 12,
            by: "ann".into(),
            why: "the provider lost it".into(),
        });
        for control in [gap, skip] {
            let (event, body) = control.to_event(jiff::Timestamp::UNIX_EPOCH).unwrap();
            let headers = event.to_headers();
            let list: Vec<_> = rdkafka::message::Headers::iter(&headers).map(|h| (h.key, h.value)).collect();
            let frame = Frame::pack(None, list.into_iter(), Some(&body));
            let view = frame.event().unwrap();
            assert!(view.is_control());
            assert_eq!(Control::parse(&view, frame.body()).unwrap(), control);
        }
    }

    /// Promise: a configuration with a later policy comes back as it was, and a program of the first version reads in it
    /// what it knows, and the version that makes it stop.
    #[test]
    fn a_later_gap_policy_does_not_hide_the_version() {
        use shared::config::GapPolicy;

        use crate::fold::Order;
        let mut fold = crate::fold::tests::config(1_000);
        let policies =
            [GapPolicy::Park, GapPolicy::BackfillOrSkip, GapPolicy::BackfillOrPark, GapPolicy::Skip];
        for (source, gap_policy) in fold.sources.values_mut().zip(policies) {
            let order = Order::Sequence { start: None, gap_wait_ms: 1, gap_policy };
            if let Some(rule) = source.rules.first_mut() {
                rule.order = Some(order.clone());
            }
            source.order = order;
        }
        let epoch = Epoch { lineage: 1, claim: 0 };
        let record =
            ConfigRecord { pipeline: "p".into(), epoch, fold, by: String::new(), why: String::new() };
        let control = Control::Config(record);
        let (event, body) = control.to_event(jiff::Timestamp::UNIX_EPOCH).unwrap();
        let view = EventView { kind: &event.kind, source: CONTROL_SOURCE, ..EventView::default() };
        assert_eq!(Control::parse(&view, &body).unwrap(), control);
        let read: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(read["fold"]["version"], 2);
        for source in read["fold"]["sources"].as_object().unwrap().values() {
            for order in [&source["order"], &source["rules"][0]["order"]] {
                assert_eq!(order["sequence"]["gap_policy"], "skip");
            }
        }
    }
}
