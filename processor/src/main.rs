//! `processor`: applies the events of the log to a sink.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Parser, Subcommand};
use processor::connections::list::{self, Filter};
use processor::gaps::{Skip, Skipped, table};
use processor::rebuild::Deleted;
use processor::verify::Verifier;
use shared::config::{Config, ConnectionStatus, PipelineConfig, Secrets};
use shared::telemetry;
use shared::units::Span;
use tokio::signal::unix::{SignalKind, signal};

/// A fifth of the CPU went into glibc's, most of it for what one thread makes and another frees: librdkafka's
/// records. Its calls, too, come to this one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Applies each event of the log exactly once, in order per entity, to a sink.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Runs a pipeline until SIGTERM.
    Run {
        #[command(flatten)]
        which: Which,
        /// Prints the commands that create the topics, and does nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Says what is wrong with the configuration, as `run` would, without starting.
    Check {
        #[command(flatten)]
        which: Which,
    },
    /// Shows where each partition stands: owner, lag, held events, open gaps, last checkpoint.
    Status {
        #[command(flatten)]
        which: Which,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Proves the books, read-only, beside a running pipeline; exit code 1 where something does not agree.
    Verify {
        #[command(flatten)]
        which: Which,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Records read a second, at most.
        #[arg(long, default_value_t = 50_000)]
        rate: u64,
    },
    /// Deletes the journal and the snapshots of a pipeline that is stopped, so that its next start folds the event log
    /// from its beginning: for a sink that was restored from an older backup (what it lacks is applied), or a journal
    /// that is damaged. The sink's tables and the dead letters stay as they are.
    Rebuild {
        #[command(flatten)]
        which: Which,
        /// How long instances that still run, or were killed, are waited for.
        #[arg(long, default_value = "60s")]
        wait: Span,
        /// Checks and says what would be deleted, and deletes nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Shows the entities that wait for a missing event, or goes on without it.
    Gaps {
        #[command(subcommand)]
        command: GapsCmd,
    },
    /// Looks after the sink.
    Sink {
        #[command(subcommand)]
        command: SinkCmd,
    },
    /// Tells people how customers' connections are, by `[alerts]`, until SIGTERM.
    Alerts {
        #[command(flatten)]
        of: Statuses,
    },
    /// Shows how customers' connections stand, from the topic of `sink.connections`.
    Connections {
        #[command(subcommand)]
        command: ConnectionsCmd,
    },
}

#[derive(Subcommand)]
enum ConnectionsCmd {
    /// All connections, or some of them.
    List {
        #[command(flatten)]
        of: Statuses,
        /// Only those of a source.
        #[arg(long)]
        source: Option<String>,
        /// Only those with a status: active, degraded, reauthorization_needed, offline or revoked.
        #[arg(long)]
        status: Option<ConnectionStatus>,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// One connection; exit code 1 where none is known by that name.
    Show {
        #[command(flatten)]
        of: Statuses,
        /// Its source.
        source: String,
        /// Its id.
        connection: String,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
}

#[derive(clap::Args)]
struct Statuses {
    /// The configuration file.
    #[arg(long, env = shared::CONFIG_ENV, default_value = "hookline.toml")]
    config: PathBuf,
    /// The topic, where several pipelines have `sink.connections`.
    #[arg(long)]
    topic: Option<String>,
}

#[derive(Subcommand)]
enum SinkCmd {
    /// Makes the sink's tables where they are missing, or brings them to this version, as `run` does: for a
    /// configuration whose user may create tables, where that of `run` may not.
    Init {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Subcommand)]
enum GapsCmd {
    /// Shows the open gaps, and the parked ones: entity, what is missing, how many events wait, since when, until when.
    List {
        #[command(flatten)]
        which: Which,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Gaps in the table.
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// Goes on without what an entity waits for, at once; should it come later, it is stale. The log keeps who did it and
    /// why.
    Skip {
        #[command(flatten)]
        which: Which,
        /// The entity's source.
        #[arg(long)]
        source: String,
        /// The entity's connection, where the source has some.
        #[arg(long, default_value = "")]
        connection: String,
        /// The entity, as `gaps list` shows it.
        #[arg(long)]
        entity: String,
        /// What for.
        #[arg(long)]
        why: String,
        /// Who decides it.
        #[arg(long, env = "USER", default_value = "operator")]
        by: String,
        /// How long the pipeline is waited for.
        #[arg(long, default_value = "30s")]
        wait: Span,
    },
}

/// The form of what is printed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(clap::Args)]
struct Which {
    /// The configuration file.
    #[arg(long, env = shared::CONFIG_ENV, default_value = "hookline.toml")]
    config: PathBuf,
    /// The pipeline's name in the configuration.
    #[arg(long)]
    pipeline: String,
}

/// How often it is looked whether all parts still run.
const FAILURE_LOOK: Duration = Duration::from_millis(500);
/// The exit code for a configuration or set-up that somebody has to change.
const MISCONFIGURED: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse().command {
        Cmd::Run { which, dry_run } => with_config(&which, |config, pipeline| {
            if dry_run {
                print_topics(config, &which.pipeline, pipeline)
            } else {
                run(config, &which.pipeline)
            }
        }),
        Cmd::Status { which, output } => {
            with_config(&which, |config, pipeline| status(config, &which.pipeline, pipeline, output))
        }
        Cmd::Verify { which, output, rate } => {
            with_config(&which, |config, pipeline| verify(config, &which.pipeline, pipeline, output, rate))
        }
        Cmd::Rebuild { which, wait, dry_run } => with_config(&which, |config, pipeline| {
            rebuild(config, &which.pipeline, pipeline.lanes, wait, dry_run)
        }),
        Cmd::Gaps { command: GapsCmd::List { which, output, limit } } => {
            with_config(&which, |config, pipeline| {
                list_gaps(config, &which.pipeline, pipeline, output, limit)
            })
        }
        Cmd::Gaps { command: GapsCmd::Skip { which, source, connection, entity, why, by, wait } } => {
            let skip = Skip { source, connection, entity, by, why };
            with_config(&which, |config, pipeline| skip_gap(config, &which.pipeline, pipeline, &skip, wait))
        }
        Cmd::Sink { command: SinkCmd::Init { which } } => {
            with_config(&which, |config, pipeline| init_sink(config, &which.pipeline, pipeline))
        }
        Cmd::Check { which } => {
            with_config(&which, |config, pipeline| check(config, &which.pipeline, pipeline))
        }
        Cmd::Alerts { of } => alerts(&of).unwrap_or_else(|error| fail(&error.to_string())),
        Cmd::Connections { command } => connections(command).unwrap_or_else(|error| fail(&error.to_string())),
    }
}

fn with_config(
    which: &Which,
    then: impl FnOnce(&Config, &PipelineConfig) -> anyhow::Result<ExitCode>,
) -> ExitCode {
    let loaded = Config::load(&which.config, Secrets::Pipeline(&which.pipeline)).and_then(|config| {
        let pipeline = config.pipeline(&which.pipeline, &which.config)?.clone();
        Ok((config, pipeline))
    });
    let (config, pipeline) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error.to_string()),
    };
    match then(&config, &pipeline) {
        Ok(code) => code,
        Err(error) => fail(&error.to_string()),
    }
}

#[allow(clippy::print_stderr, reason = "the command line's own words, before there is a log")]
fn fail(message: &str) -> ExitCode {
    eprintln!("processor: {message}");
    ExitCode::from(MISCONFIGURED)
}

#[allow(clippy::print_stdout, reason = "the output that was asked for")]
fn print_topics(config: &Config, name: &str, pipeline: &PipelineConfig) -> anyhow::Result<ExitCode> {
    for topic in processor::run::topics_of(config, name, pipeline) {
        println!("{topic}");
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the output that was asked for")]
fn check(config: &Config, name: &str, pipeline: &PipelineConfig) -> anyhow::Result<ExitCode> {
    processor::sink::check_built_in(&pipeline.sink)?;
    let sources = config.sources.keys().filter(|source| pipeline.takes(source)).count();
    let tables = pipeline.tables.len();
    println!("pipeline {name}: {sources} sources, {tables} own tables; the configuration is sound");
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the output that was asked for")]
fn init_sink(config: &Config, name: &str, pipeline: &PipelineConfig) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cluster_id = runtime.block_on(processor::run::cluster_id(config))?;
    let topic = config.log.topic.clone();
    let tables = Arc::new(pipeline.tables.clone());
    let context = processor::sink::Context { pipeline: name.to_owned(), cluster_id, topic, tables };
    match processor::sink::open(&pipeline.sink, &context)? {
        Some(_) if pipeline.sink.takes_tables() => {
            println!("pipeline {name}: the sink's tables are there, and its own; mapped ones fit")
        }
        Some(_) | None => println!("pipeline {name}: this sink has no tables"),
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the output that was asked for")]
fn status(
    config: &Config,
    name: &str,
    pipeline: &PipelineConfig,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let context = processor::run::kafka_context(config, name, "status", pipeline.lanes);
    let rows = processor::status::status(config, &context)?;
    match output {
        Output::Table => print!("{}", processor::status::table(&rows)),
        Output::Json => println!("{}", serde_json::to_string(&rows)?),
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the output that was asked for")]
fn verify(
    config: &Config,
    name: &str,
    pipeline: &PipelineConfig,
    output: Output,
    rate: u64,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let cluster_id = runtime.block_on(processor::run::cluster_id(config))?;
    let context = processor::run::kafka_context(config, name, "verify", pipeline.lanes);
    let topic = config.log.topic.clone();
    let stores = processor::store::SledStores::new(&pipeline.state_dir, &cluster_id, &topic, name);
    let tables = Arc::new(pipeline.tables.clone());
    let sink_context = processor::sink::Context { pipeline: name.to_owned(), cluster_id, topic, tables };
    let sink = processor::sink::open(&pipeline.sink, &sink_context)?.filter(|sink| sink.keeps_fence());
    let stores = Some(stores);
    let proofs = Verifier { config, pipeline, context: &context, sink, stores, rate }.verify()?;
    match output {
        Output::Table => print!("{}", processor::verify::table(&proofs)),
        Output::Json => println!("{}", serde_json::to_string(&proofs)?),
    }
    let agree = proofs.iter().all(|proof| proof.differences.is_empty());
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[allow(clippy::print_stdout, reason = "the output that was asked for")]
fn list_gaps(
    config: &Config,
    name: &str,
    pipeline: &PipelineConfig,
    output: Output,
    limit: usize,
) -> anyhow::Result<ExitCode> {
    let context = processor::run::kafka_context(config, name, "gaps", pipeline.lanes);
    let gaps = processor::gaps::list(config, &context)?;
    match output {
        Output::Table => print!("{}", processor::gaps::table(&gaps, limit)),
        Output::Json => println!("{}", serde_json::to_string(&gaps)?),
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the output that was asked for")]
fn skip_gap(
    config: &Config,
    name: &str,
    pipeline: &PipelineConfig,
    skip: &Skip,
    wait: Span,
) -> anyhow::Result<ExitCode> {
    let context = processor::run::kafka_context(config, name, "gaps", pipeline.lanes);
    match processor::gaps::skip(config, &context, skip, wait.0)? {
        Skipped::Gone(None) => println!("pipeline {name}: the entity goes on, and waits for nothing"),
        Skipped::Gone(Some(next)) => {
            print!("pipeline {name}: the entity goes on, up to its next gap:\n{}", table(&[next], 1));
        }
        Skipped::Appended(partition, offset) => println!(
            "pipeline {name}: said in the event log, partition {partition}, offset {offset}; the pipeline has not come \
             to it yet, and obeys if the same gap stands by then"
        ),
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the output that was asked for")]
fn rebuild(config: &Config, name: &str, lane: u32, wait: Span, dry_run: bool) -> anyhow::Result<ExitCode> {
    let context = processor::run::kafka_context(config, name, "rebuild", lane);
    let deleted = processor::rebuild::rebuild(config, &context, wait.0, dry_run)?;
    for Deleted { partition, journal, snapshots, to_fold } in deleted {
        println!(
            "partition {partition}: {} {journal} records of the journal, {snapshots} of the snapshots; \
             {to_fold} of the event log to fold",
            if dry_run { "would delete" } else { "deleted" }
        );
    }
    if !dry_run {
        println!("pipeline {name}: its next start folds the event log from its beginning");
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the output that was asked for")]
fn connections(command: ConnectionsCmd) -> anyhow::Result<ExitCode> {
    let (of, filter, output, is_one) = match command {
        ConnectionsCmd::List { of, source, status, output } => {
            (of, Filter { source, status, connection: None }, output, false)
        }
        ConnectionsCmd::Show { of, source, connection, output } => {
            (of, Filter { source: Some(source), status: None, connection: Some(connection) }, output, true)
        }
    };
    let config = Config::load(&of.config, Secrets::None)?;
    let topic = of.topic.map_or_else(|| list::topic(&config), Ok)?;
    let found = list::list(&config, &topic, &filter)?;
    match (output, found.first()) {
        (Output::Json, one) if is_one => println!("{}", serde_json::to_string(&one)?),
        (Output::Json, _) => println!("{}", serde_json::to_string(&found)?),
        (Output::Table, Some(one)) if is_one => print!("{}", list::detail(one)),
        (Output::Table, None) if is_one => println!(
            "nothing is known of this connection: no event told its status, and no list of it was polled"
        ),
        (Output::Table, _) => print!("{}", list::table(&found)),
    }
    Ok(if is_one && found.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(not(feature = "alerts"))]
fn alerts(_: &Statuses) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this program was built without alerts; build with --features alerts")
}

#[cfg(feature = "alerts")]
fn alerts(of: &Statuses) -> anyhow::Result<ExitCode> {
    use processor::alerts::{self, Alerts};
    use shared::admin;
    use shared::topics;

    let config = Config::load(&of.config, Secrets::Alerts)?;
    let Some(settings) = config.alerts.clone() else { anyhow::bail!("the configuration has no [alerts]") };
    let statuses = of.topic.clone().map_or_else(|| list::topic(&config), Ok)?;
    telemetry::init_logs(config.telemetry.log_format);
    let metrics = telemetry::init_metrics();
    processor::metrics::describe();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let stop = Arc::new(AtomicBool::new(false));
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let signalled = async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        tokio::pin!(signalled);
        let health = alerts::health();
        admin::serve(settings.admin_listen, health.clone(), metrics).await?;
        let wanted = [topics::of_statuses(&config, &statuses), topics::of_alerts(&config, &settings.topic)];
        tokio::select! {
            checked = processor::run::wait_for_topics(&config, &wanted, &health, &stop) => checked?,
            () = &mut signalled => return Ok(ExitCode::SUCCESS),
        }
        let running = Alerts::start(&config, &settings, &statuses, health)?;
        let asked = stop.clone();
        let mut ended = tokio::task::spawn_blocking(move || running.run(&asked));
        tracing::info!(topic = statuses, channels = settings.channels.len(), "alerts run");
        tokio::select! {
            done = &mut ended => return done.map(|()| ExitCode::FAILURE).map_err(Into::into),
            () = signalled => stop.store(true, Ordering::Release),
        }
        ended.await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn run(config: &Config, name: &str) -> anyhow::Result<ExitCode> {
    telemetry::init_logs(config.telemetry.log_format);
    let metrics = telemetry::init_metrics();
    let exporter = shared::spans::init("hookline-processor");
    let pipeline = config.pipelines.get(name).cloned();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(async {
        let stop = Arc::new(AtomicBool::new(false));
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let signalled = async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!("stopping: a last checkpoint");
        };
        tokio::pin!(signalled);
        let Some(pipeline) = pipeline else { return Ok(ExitCode::from(MISCONFIGURED)) };
        let running = tokio::select! {
            running = processor::run::start(config, name, &pipeline, metrics, stop.clone()) => running?,
            () = &mut signalled => return Ok(ExitCode::SUCCESS),
        };
        let failed = tokio::select! {
            () = signalled => false,
            () = failure(&running) => true,
        };
        let drained = tokio::task::spawn_blocking(move || running.stop()).await?;
        stop.store(true, Ordering::Release);
        if !drained {
            tracing::warn!("not drained in time; the next start goes on from the last checkpoint");
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    });
    if let Some(exporter) = exporter {
        exporter.shutdown();
    }
    ended
}

/// Ends when a part of the pipeline has ended by itself. Its own log line says why.
async fn failure(running: &processor::run::Running) {
    while !running.has_failed() {
        tokio::time::sleep(FAILURE_LOOK).await;
    }
}
