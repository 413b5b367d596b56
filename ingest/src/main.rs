//! The command line of ingest: `ingest serve`, `ingest poll`, `ingest check`, `ingest urls`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ingest::{Error, SetupError};
use shared::config::{Config, Secrets};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A fifth of the CPU went into glibc's, most of it for what one thread makes and another frees: librdkafka's
/// records. Its calls, too, come to this one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A wrong configuration's exit status; also that of a wrong command line.
const EXIT_CONFIG: u8 = 2;

/// Verifies webhooks and appends them to Kafka before it answers 200.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Receives webhooks until SIGTERM or SIGINT.
    Serve(ConfigFile),
    /// Polls the providers' APIs for what webhooks missed, until SIGTERM or SIGINT.
    Poll(ConfigFile),
    /// Says what is wrong with the configuration, without starting.
    Check(ConfigFile),
    /// Prints the address of each source and connection, to be given to the sender.
    Urls(Urls),
}

#[derive(clap::Args)]
struct Urls {
    #[command(flatten)]
    file: ConfigFile,
    /// Where senders reach this ingest, such as https://hooks.example.com; default: `ingest.public_url`.
    #[arg(long)]
    base: Option<String>,
    /// Of this source only.
    #[arg(long)]
    source: Option<String>,
    /// Of this connection only.
    #[arg(long)]
    connection: Option<String>,
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, env = shared::CONFIG_ENV, default_value = "hookline.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(file) => serve(&file.config),
        Command::Poll(file) => poll(&file.config),
        Command::Check(file) => check(&file.config),
        Command::Urls(which) => urls(&which),
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "ingest: {error:#}");
        ExitCode::FAILURE
    })
}

fn load(path: &Path) -> Result<Config, ExitCode> {
    let config = Config::load(path, Secrets::Sources).map_err(|error| wrong(&error.to_string()))?;
    ingest::check(&config).map_err(|error| wrong(&placed(path, &error)))?;
    Ok(config)
}

fn check(path: &Path) -> anyhow::Result<ExitCode> {
    let config = match load(path) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let mut out = std::io::stdout();
    writeln!(out, "{}: good", path.display())?;
    let scheme = if config.ingest.tls.is_some() { "https" } else { "http" };
    writeln!(out, "log {} at {}", config.log.topic, config.kafka.bootstrap_servers)?;
    for (name, source) in &config.sources {
        let connection =
            if source.connection == Some(shared::selector::Selector::Path) { "/{connection}" } else { "" };
        let secrets =
            source.secrets.len() + source.connections.values().map(|c| c.secrets.len()).sum::<usize>();
        let registry = if source.registry.is_some() { ", more in its registry" } else { "" };
        writeln!(
            out,
            "POST {scheme}://{}/webhooks/{name}{connection}: {secrets} secrets, {} connections{registry}",
            config.ingest.listen,
            source.connections.len()
        )?;
        let Some(poll) = &source.poll else { continue };
        for (resource, list) in &poll.resources {
            writeln!(out, "GET {}{}: {resource} of {name}, polled", poll.url.get_ref(), list.path)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn urls(which: &Urls) -> anyhow::Result<ExitCode> {
    let path = &which.file.config;
    let config = match Config::load(path, Secrets::None) {
        Ok(config) => config,
        Err(error) => return Ok(wrong(&error.to_string())),
    };
    let Some(base) = which.base.as_deref().or(config.ingest.public_url.as_deref()) else {
        return Ok(wrong(
            "where senders reach this ingest is not known: give --base, or set ingest.public_url",
        ));
    };
    let found = match ingest::urls(&config, base) {
        Ok(found) => found,
        Err(error) => return Ok(wrong(&placed(path, &error))),
    };
    let is_meant = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
    let mut out = std::io::stdout();
    let mut printed = 0_usize;
    for url in found {
        if is_meant(&which.source, &url.source) && is_meant(&which.connection, &url.connection) {
            writeln!(out, "{url}")?;
            printed += 1;
        }
    }
    if printed == 0 {
        return Ok(wrong("no such source or connection"));
    }
    Ok(ExitCode::SUCCESS)
}

fn poll(path: &Path) -> anyhow::Result<ExitCode> {
    let config = match Config::load(path, Secrets::Tokens) {
        Ok(config) => config,
        Err(error) => return Ok(wrong(&error.to_string())),
    };
    shared::telemetry::init_logs(config.telemetry.log_format);
    let metrics = shared::telemetry::init_metrics();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let signals = Signals::listen()?;
        let polling = match ingest::poll(&config, metrics).await {
            Ok(polling) => polling,
            Err(Error::Setup(error)) => return Ok(wrong(&placed(path, &error))),
            Err(error) => return Err(error.into()),
        };
        signals.wait().await;
        if polling.stop().await {
            tracing::info!("stopped; what was found is in the log");
        } else {
            tracing::warn!("stopped; what was not appended is found again");
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn serve(path: &Path) -> anyhow::Result<ExitCode> {
    let config = match load(path) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    shared::telemetry::init_logs(config.telemetry.log_format);
    let metrics = shared::telemetry::init_metrics();
    let exporter = shared::spans::init("hookline-ingest");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let signals = Signals::listen()?;
        let running = match ingest::serve(&config, metrics).await {
            Ok(running) => running,
            Err(Error::Setup(error)) => return Ok(wrong(&placed(path, &error))),
            Err(error) => return Err(error.into()),
        };
        signals.wait().await;
        let stopped = running.stop().await;
        if stopped.drained && stopped.flushed {
            tracing::info!("stopped; every accepted request was answered");
        } else {
            tracing::warn!(
                drained = stopped.drained,
                flushed = stopped.flushed,
                "stopped at the end of ingest.drain_timeout; what was not answered is sent again"
            );
        }
        Ok(ExitCode::SUCCESS)
    });
    if let Some(exporter) = exporter {
        exporter.shutdown();
    }
    ended
}

/// What ends a program. Listened for before anything else, so that a signal during the start is not lost.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!(signal = "SIGTERM", "stopping"),
            _ = self.interrupt.recv() => tracing::info!(signal = "SIGINT", "stopping"),
        }
    }
}

fn wrong(message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "ingest: {message}");
    ExitCode::from(EXIT_CONFIG)
}

/// The message with file and line: of the value itself, or of the table that it stands in.
fn placed(path: &Path, error: &SetupError) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let table = || {
        let mut key = error.key.as_str();
        loop {
            if let Some(at) =
                [format!("[{key}]"), format!("[{key}.")].iter().find_map(|header| text.find(header))
            {
                return Some(at);
            }
            key = key.rsplit_once('.')?.0;
        }
    };
    match error.span.as_ref().map(|span| span.start).or_else(table) {
        Some(start) => {
            let line = text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
            format!("{}:{line}: {error}", path.display())
        }
        None => format!("{}: {error}", path.display()),
    }
}
