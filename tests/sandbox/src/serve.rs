//! The commands of the provider's side: `serve`, `scenarios`, `provider-config` and `check`.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use sandbox::provider::{self, ConfigOptions, Database, Delivery, Options, Phase, Running, Scenario, Urls};

/// How often `serve` says how far the scenario is.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// The longest list of addresses: 100,000 of them.
const URLS_BYTES_MAX: u64 = 16 << 20;
/// How long the provider may take to say what it expects.
#[cfg(feature = "sqlite")]
const EXPECTED_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer of that kind.
#[cfg(feature = "sqlite")]
const EXPECTED_BYTES_MAX: u64 = 1 << 30;

/// What `serve` is asked for.
#[derive(Args)]
pub(crate) struct Serve {
    /// A scenario's name, or the path of a file of your own. Without it nothing happens but by /control.
    #[arg(long)]
    scenario: Option<String>,
    /// Instead of the scenario's own: the same seed gives the same records.
    #[arg(long)]
    seed: Option<u64>,
    /// Where ingest listens. Without it webhooks wait until /control/receiver says.
    #[arg(long)]
    receiver: Option<String>,
    /// Instead: each connection's webhooks go to its own address, as `ingest urls` has printed them into this file, or
    /// prints them to standard input (`-`).
    #[arg(long, conflicts_with = "receiver")]
    urls: Option<PathBuf>,
    /// Where the API and /control listen; whoever reaches it gets every token.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// The source's name in hookline.toml.
    #[arg(long, default_value = "makini")]
    source: String,
    /// The customers' connections.
    #[arg(long, value_delimiter = ',', default_value = "acme,globex,initech")]
    connections: Vec<String>,
    /// A directory for the registry of connections, which is kept up to date.
    #[arg(long)]
    registry: Option<PathBuf>,
    /// The pause after a webhook's first failed attempt; it doubles each time.
    #[arg(long, default_value = "200ms", value_parser = humantime::parse_duration)]
    backoff_min: Duration,
    /// The longest pause.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    backoff_max: Duration,
}

/// What `provider-config` is asked for.
#[derive(Args)]
pub(crate) struct ProviderConfig {
    /// Where the provider listens.
    #[arg(long, default_value = "http://127.0.0.1:9000")]
    api_url: String,
    /// The directory of the registry, as given to `serve`.
    #[arg(long)]
    registry: PathBuf,
    /// The source's name.
    #[arg(long, default_value = "makini")]
    source: String,
    /// How long Hookline waits for a missing revision.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    gap_wait: Duration,
    /// The longest time between two polls of a list.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    poll_interval: Duration,
    /// Print the tables of one's own for the records too, for the pipeline of this name.
    #[arg(long)]
    pipeline: Option<String>,
    /// Print instead the SQL that makes these tables.
    #[arg(long)]
    sql: Option<Dialect>,
}

/// A database.
#[derive(Clone, Copy, ValueEnum)]
enum Dialect {
    Sqlite,
    Postgres,
}

/// What `check` is asked for.
#[cfg(feature = "sqlite")]
#[derive(Args)]
pub(crate) struct Check {
    /// Where the provider listens.
    #[arg(long, default_value = "http://127.0.0.1:9000")]
    provider: String,
    /// The file of the sink.
    #[arg(long)]
    sqlite: PathBuf,
}

/// Runs the provider until it is killed.
pub(crate) fn serve(args: Serve) -> ExitCode {
    match started(args) {
        Ok(running) => {
            tell(&running);
            loop {
                std::thread::park();
            }
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn started(args: Serve) -> Result<Running, String> {
    let scenario =
        args.scenario.as_deref().map(Scenario::find).transpose().map_err(|error| error.to_string())?;
    let urls = args.urls.as_deref().map(|file| urls(file, &args.source, &args.connections)).transpose()?;
    let options = Options {
        listen: args.listen,
        source: args.source,
        connections: args.connections,
        delivery: Delivery {
            backoff_min: args.backoff_min,
            backoff_max: args.backoff_max,
            ..Delivery::default()
        },
        registry: args.registry,
        epoch_ms: None,
    };
    let running = provider::start(&options).map_err(|error| error.to_string())?;
    println!("the provider's API: {url}/api/v1, by hand: {url}/control", url = running.url());
    if let Some(receiver) = &args.receiver {
        running.set_receiver(receiver);
    }
    if let Some(urls) = urls {
        running.set_urls(urls);
    }
    if let Some(mut scenario) = scenario {
        scenario.seed = args.seed.unwrap_or(scenario.seed);
        println!("{}, seed {}: {}", scenario.name, scenario.seed, scenario.shows);
        running.play(scenario).map_err(|error| error.to_string())?;
    }
    Ok(running)
}

fn urls(file: &Path, source: &str, connections: &[String]) -> Result<Urls, String> {
    let is_input = file == Path::new("-");
    let place = if is_input { "standard input".to_owned() } else { file.display().to_string() };
    let mut text = String::new();
    let read = match is_input {
        true => io::stdin().lock().take(URLS_BYTES_MAX).read_to_string(&mut text),
        false => File::open(file).and_then(|file| file.take(URLS_BYTES_MAX).read_to_string(&mut text)),
    };
    let bytes = read.map_err(|error| format!("{place}: cannot be read: {error}"))?;
    if bytes as u64 == URLS_BYTES_MAX {
        return Err(format!("{place}: has {URLS_BYTES_MAX} bytes or more, which no list of addresses has"));
    }
    Urls::parse(&text, &place, source, connections).map_err(|error| error.to_string())
}

/// Says how far the scenario is, until it is done.
fn tell(running: &Running) {
    loop {
        let state = running.state();
        let webhooks = state.webhooks;
        if state.phase == Phase::Idle {
            return;
        }
        println!(
            "{} changes; webhooks: {} taken, {} wait, {} given up, {} never sent",
            state.changes, webhooks.answered, webhooks.waiting, webhooks.given_up, state.lost,
        );
        if state.phase == Phase::Done {
            println!("done; what must be in the sink: {}/control/expected", running.url());
            return;
        }
        std::thread::sleep(TELL_EVERY);
    }
}

/// Lists the scenarios.
pub(crate) fn scenarios() {
    for scenario in Scenario::all() {
        let seconds = scenario.duration.as_secs();
        println!("{:<20} {seconds:>3} s  {}", scenario.name, scenario.shows);
    }
}

/// Prints the configuration.
pub(crate) fn provider_config(args: &ProviderConfig) {
    if let Some(dialect) = args.sql {
        let database = match dialect {
            Dialect::Sqlite => Database::Sqlite,
            Dialect::Postgres => Database::Postgres,
        };
        return print!("{}", provider::tables_sql(database));
    }
    let options = ConfigOptions {
        source: &args.source,
        api_url: args.api_url.trim_end_matches('/'),
        registry: &args.registry,
        gap_wait: args.gap_wait,
        poll_interval: args.poll_interval,
        overlap: Duration::from_secs(30),
    };
    print!("{}", provider::config_toml(&options));
    if let Some(pipeline) = &args.pipeline {
        print!("{}", provider::tables_toml(pipeline));
    }
}

/// Compares a sink with what a running provider expects.
#[cfg(feature = "sqlite")]
pub(crate) fn check(args: &Check) -> ExitCode {
    let differences = expected(&args.provider).and_then(|expected| {
        let differences =
            provider::check_sqlite(&expected, &args.sqlite).map_err(|error| error.to_string())?;
        println!("{} records expected, {} differences", expected.entities.len(), differences.len());
        Ok(differences)
    });
    match differences {
        Ok(differences) => {
            crate::print_differences(&differences);
            if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "sqlite")]
fn expected(provider: &str) -> Result<provider::Expected, String> {
    let url = format!("{}/control/expected", provider.trim_end_matches('/'));
    let failed = |error: &dyn std::fmt::Display| format!("{url}: {error}");
    let config = ureq::Agent::config_builder().proxy(None).timeout_global(Some(EXPECTED_TIMEOUT)).build();
    let mut answer = ureq::Agent::new_with_config(config).get(&url).call().map_err(|error| failed(&error))?;
    let body = answer.body_mut().with_config().limit(EXPECTED_BYTES_MAX).read_to_vec();
    serde_json::from_slice(&body.map_err(|error| failed(&error))?).map_err(|error| failed(&error))
}
