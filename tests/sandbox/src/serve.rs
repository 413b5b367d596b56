//! The commands of the provider's side: `serve`, `scenarios` and `provider-config`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use sandbox::provider::{self, ConfigOptions, Delivery, Options, Phase, Running, Scenario};

/// How often `serve` says how far the scenario is.
const TELL_EVERY: Duration = Duration::from_secs(2);

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
    if let Some(mut scenario) = scenario {
        scenario.seed = args.seed.unwrap_or(scenario.seed);
        println!("{}, seed {}: {}", scenario.name, scenario.seed, scenario.shows);
        running.play(scenario).map_err(|error| error.to_string())?;
    }
    Ok(running)
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
    let options = ConfigOptions {
        source: &args.source,
        api_url: args.api_url.trim_end_matches('/'),
        registry: &args.registry,
        gap_wait: args.gap_wait,
        poll_interval: args.poll_interval,
        overlap: Duration::from_secs(30),
    };
    print!("{}", provider::config_toml(&options));
}
