//! `--scenario NAME`: the whole case. The sandbox plays a provider whose webhooks come twice, late, in disorder or not at
//! all, and whose API fails; ingest, the poller and the processor bring its records into SQLite; each is compared.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sandbox::check::Difference;
use sandbox::delivery::Verdicts;
use sandbox::provider::{self, ConfigOptions, Database, Expected, Options, Phase, Running, Scenario, Urls};

use crate::config::{Files, PIPELINE, Sources};
use crate::counts;
use crate::product::Product;
use crate::show::{DIFFERENCES_MAX, Show};

/// How long a revision that is missing is waited for.
const GAP_WAIT: Duration = Duration::from_secs(5);
/// The longest time between two polls of a list.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How much of the time before a list is asked for again.
const OVERLAP: Duration = Duration::from_secs(30);
/// How long nothing may change before waiting is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(200);

/// A provider that runs, and the scenario that it is to play.
pub(crate) struct Case {
    provider: Running,
    scenario: Scenario,
    source: String,
    connections: Vec<String>,
}

/// What came of it.
pub(crate) struct Outcome {
    scenario: Scenario,
    expected: Expected,
    provider: provider::State,
    requests: (u64, u64),
    verdicts: Verdicts,
    differences: Vec<Difference>,
}

impl Case {
    /// Starts the provider, which writes its registry of connections beside the configuration.
    pub(crate) fn start(files: &Files, name: &str, seed: Option<u64>) -> anyhow::Result<Self> {
        let mut scenario = Scenario::find(name)?;
        scenario.seed = seed.unwrap_or(scenario.seed);
        let options = Options { registry: Some(files.registry.clone()), ..Options::default() };
        let provider = provider::start(&options).context("the sandbox does not start")?;
        Ok(Self { provider, scenario, source: options.source, connections: options.connections })
    }

    /// The configuration for it, with tables of one's own for its records; these are made.
    pub(crate) fn sources(&self, files: &Files) -> anyhow::Result<Sources> {
        let database = rusqlite::Connection::open(&files.database)?;
        database.execute_batch(&provider::tables_sql(Database::Sqlite))?;
        let sources = provider::config_toml(&ConfigOptions {
            source: &self.source,
            api_url: &self.provider.url(),
            registry: &files.registry,
            gap_wait: GAP_WAIT,
            poll_interval: POLL_INTERVAL,
            overlap: OVERLAP,
        });
        Ok(Sources { tables: sources, of_pipeline: provider::tables_toml(PIPELINE), secrets: Vec::new() })
    }

    /// Plays the scenario, waits until the sink has what the provider has, and compares.
    pub(crate) fn run(self, show: &Show, files: &Files, product: &Product) -> anyhow::Result<Outcome> {
        let Self { provider, scenario, source, connections } = self;
        show.line(&format!("provider, by hand    {}/control", provider.url()));
        show.line(&format!("\n{}, seed {}: {}", scenario.name, scenario.seed, scenario.shows));
        provider.set_urls(Urls::parse(&product.addresses, "ingest urls", &source, &connections)?);
        provider.play(scenario.clone())?;
        let progress = |state: &provider::State| {
            format!("{} changes, {} webhooks answered", state.changes, state.webhooks.answered)
        };
        while provider.state().phase != Phase::Done {
            show.progress(&progress(&provider.state()), false);
            std::thread::sleep(LOOK);
        }
        let state = provider.state();
        show.progress(&progress(&state), true);
        let expected = provider.expected();
        let differences = settle(show, files, &expected)?;
        let requests = provider.requests();
        let sum = |each: fn(&provider::RequestCounts) -> u64| requests.values().map(each).sum();
        Ok(Outcome {
            verdicts: counts::read(&product.metrics_url)?,
            requests: (sum(|of| of.lists), sum(|of| of.ones)),
            provider: state,
            expected,
            differences,
            scenario,
        })
    }
}

/// Waits until nothing differs, or nothing changes any more.
fn settle(show: &Show, files: &Files, expected: &Expected) -> anyhow::Result<Vec<Difference>> {
    let (mut last, mut changed) = (usize::MAX, Instant::now());
    loop {
        let differences = provider::check_sqlite(expected, &files.database)?;
        if differences.len() != last {
            (last, changed) = (differences.len(), Instant::now());
        }
        let text = format!("{last} of {} records differ still", expected.entities.len());
        if differences.is_empty() || changed.elapsed() > PATIENCE {
            show.progress(&text, true);
            return Ok(differences);
        }
        show.progress(&text, false);
        std::thread::sleep(LOOK);
    }
}

impl Outcome {
    pub(crate) fn agrees(&self) -> bool {
        self.differences.is_empty()
    }

    /// The one object of `--json`.
    pub(crate) fn json(&self) -> serde_json::Value {
        let (lists, ones) = self.requests;
        serde_json::json!({
            "scenario": self.scenario.name,
            "seed": self.scenario.seed,
            "changes": self.provider.changes,
            "webhooks_answered": self.provider.webhooks.answered,
            "webhooks_lost": self.provider.lost,
            "pages_polled": lists,
            "records_asked_for": ones,
            "applied": self.verdicts.applied,
            "duplicates": self.verdicts.duplicates,
            "stale": self.verdicts.stale,
            "held": self.verdicts.held,
            "dead_lettered": self.verdicts.dead_lettered,
            "records": self.expected.entities.len(),
            "agree": self.agrees(),
        })
    }

    /// The table, and the differences if there are any.
    pub(crate) fn table(&self, show: &Show) {
        let (webhooks, verdicts) = (&self.provider.webhooks, &self.verdicts);
        let (lists, ones) = self.requests;
        let row = |name: &str, count: u64, note: &str| {
            show.line(&format!("  {name:<24}{count:>8}  {note}"));
        };
        let verdict = |name: &str, count: usize, note: &str| row(name, count as u64, note);
        show.line("");
        row("changes of records", self.provider.changes, "at three customers' systems");
        row("webhooks answered", webhooks.answered, "repeats among them");
        row("webhooks lost", self.provider.lost, "never sent: found by polling");
        row("pages polled", lists, "of four lists of each customer");
        row("records asked for", ones, "to fill a gap");
        verdict("applied", verdicts.applied, "");
        verdict("duplicates", verdicts.duplicates, "the id or the version was there before");
        verdict("stale", verdicts.stale, "a later state was applied already");
        verdict("held", verdicts.held, "waiting for a revision that is missing");
        verdict("dead-lettered", verdicts.dead_lettered, "cannot be read");
        show.line("");
        let records = self.expected.entities.len();
        if self.agrees() {
            show.line(&format!(
                "All agrees: each of {records} records, in Hookline's table and in tables of its own, row by row."
            ));
            return;
        }
        show.line(&format!("NOT as it must be, {} differences:", self.differences.len()));
        for difference in self.differences.iter().take(DIFFERENCES_MAX) {
            show.line(&format!("  {difference}"));
        }
    }
}
