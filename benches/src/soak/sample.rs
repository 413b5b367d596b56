//! What is looked at every few seconds.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hookline_tests::http::Client;
use hookline_tests::metrics::Metrics;

use super::PIPELINE;
use crate::usage::{self, Usage, mb};

/// How the programs and their data are at one time. A program that is being restarted has no figures.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    pub(super) at_seconds: f64,
    pub(super) ingest: Option<Usage>,
    pub(super) processor: Option<Usage>,
    /// The processor's local state, and the journal's topic, on the disk.
    pub(super) sled_bytes: f64,
    pub(super) journal_bytes: f64,
    /// Records of the log beyond the last checkpoint.
    pub(super) lag: Option<f64>,
    /// Events that wait for one before them.
    pub(super) held: Option<f64>,
    /// Ids that are remembered.
    pub(super) ids: Option<f64>,
}

/// A column: its name and unit, and its value.
type Column = (&'static str, fn(&Sample) -> Option<f64>);

/// What the CSV, the curves and the summary show.
pub(super) const COLUMNS: [Column; 11] = [
    ("ingest RSS, MB", |s| s.ingest.map(|u| mb(u.resident_bytes))),
    ("processor RSS, MB", |s| s.processor.map(|u| mb(u.resident_bytes))),
    ("ingest file descriptors", |s| s.ingest.map(|u| u.file_descriptors)),
    ("processor file descriptors", |s| s.processor.map(|u| u.file_descriptors)),
    ("ingest threads", |s| s.ingest.map(|u| u.threads)),
    ("processor threads", |s| s.processor.map(|u| u.threads)),
    ("sled, MB", |s| Some(mb(s.sled_bytes))),
    ("journal, MB", |s| Some(mb(s.journal_bytes))),
    ("lag, records", |s| s.lag),
    ("held events", |s| s.held),
    ("remembered ids", |s| s.ids),
];

/// Takes samples.
pub(super) struct Sampler {
    started: Instant,
    state: PathBuf,
    kafka_data: PathBuf,
    metrics_url: String,
    client: Client,
}

impl Sampler {
    pub(super) fn new(started: Instant, state: &Path, kafka_data: &Path, metrics_url: &str) -> Self {
        Self {
            started,
            state: state.to_owned(),
            kafka_data: kafka_data.to_owned(),
            metrics_url: metrics_url.to_owned(),
            client: Client::new(),
        }
    }

    pub(super) fn take(&self) -> Sample {
        let usage = |name| usage::child(name).and_then(Usage::of);
        let metrics = self.client.get(&self.metrics_url).ok().filter(|answer| answer.status == 200);
        let metrics = metrics.map(|answer| Metrics::parse(&answer.text())).unwrap_or_default();
        Sample {
            at_seconds: self.started.elapsed().as_secs_f64(),
            ingest: usage("ingest"),
            processor: usage("processor"),
            sled_bytes: usage::disk_bytes(&self.state),
            journal_bytes: self.journal_bytes(),
            lag: metrics.sum("hookline_processor_lag_records", &[]),
            held: metrics.sum("hookline_processor_held_events", &[]),
            ids: metrics.sum("hookline_processor_remembered_ids", &[]),
        }
    }

    fn journal_bytes(&self) -> f64 {
        let journal = format!("hookline.{PIPELINE}.journal-");
        let entries = fs::read_dir(&self.kafka_data).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&journal))
            .map(|entry| usage::disk_bytes(&entry.path()))
            .sum()
    }
}

impl Sample {
    /// For whoever watches.
    pub(super) fn line(&self) -> String {
        let mut line = format!("{:.0} s", self.at_seconds);
        for (name, value) in COLUMNS {
            let value = value(self).map_or_else(|| "-".to_owned(), |v| v.to_string());
            let _ = write!(line, "; {name} {value}");
        }
        line
    }
}

/// All samples, with a line of names; what is not known is empty.
pub(super) fn csv(samples: &[Sample]) -> String {
    let names: Vec<String> = COLUMNS.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let mut text = format!("seconds,{}\n", names.join(","));
    for sample in samples {
        let _ = write!(text, "{:.1}", sample.at_seconds);
        for (_, value) in COLUMNS {
            let _ = write!(text, ",{}", value(sample).map(|v| v.to_string()).unwrap_or_default());
        }
        text.push('\n');
    }
    text
}
