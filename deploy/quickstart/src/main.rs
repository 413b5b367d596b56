//! `quickstart`: the whole of Hookline in one process, tried out and checked.
//!
//! A broker in memory, ingest and the processor as in production with an SQLite file behind them, a sender that
//! plays Makini and GitHub over real HTTP, and a check of every row. Exit code 0 only if all agrees.
#![allow(clippy::print_stdout, reason = "a command-line program")]

mod broker;
mod config;
mod counts;
mod product;
mod scenario;
mod show;
mod sql;
mod trial;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use anyhow::Context as _;
use clap::Parser;
use tokio::runtime::Runtime;

use crate::config::{Files, Sources};
use crate::scenario::Case;
use crate::show::Show;

/// The most webhooks of a run: the embedded broker holds about 5 MiB in each partition.
const WEBHOOKS_MAX: u64 = 20_000;

/// Tries out Hookline: signed webhooks in, rows in SQLite out, each compared with what must be there.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// How many webhooks to send.
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64)
        .range(sandbox::plan::WEBHOOKS_MIN as u64..=WEBHOOKS_MAX))]
    webhooks: u64,
    /// Decides everything that is random: the same seed sends the same events. Default: 1, or the scenario's.
    #[arg(long)]
    seed: Option<u64>,
    /// Instead of the webhooks, play a scenario of the sandbox's provider, with polling: mixed, lost, api-errors and
    /// others (`cargo run -p sandbox -- scenarios` lists them), or a file of your own.
    #[arg(long, conflicts_with = "webhooks")]
    scenario: Option<String>,
    /// Stay up afterwards, for webhooks by hand, until Ctrl-C; keep the files.
    #[arg(long)]
    keep: bool,
    /// Print the result as one JSON object on standard output; everything else goes to standard error.
    #[arg(long)]
    json: bool,
    /// Run a query on an SQLite file, and nothing else.
    #[arg(long, num_args = 2, value_names = ["FILE", "QUERY"])]
    sql: Option<Vec<String>>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.sql.as_deref() {
        Some([file, query]) => sql::run(Path::new(file), query).map(|lines| {
            lines.iter().for_each(|line| println!("{line}"));
            true
        }),
        Some(_) | None => run(&cli),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The whole run; true if all agrees.
fn run(cli: &Cli) -> anyhow::Result<bool> {
    let show = Show::new(cli.json);
    let dir = tempfile::Builder::new().prefix("hookline-quickstart-").tempdir()?.keep();
    let files = Files::in_dir(&dir);
    let runtime = Runtime::new()?;
    let interrupt = Interrupt::listen(&runtime, (!cli.keep).then_some(dir));
    let result = try_out(cli, &show, &files, &runtime, &interrupt);
    // What went wrong can be looked at.
    let all_well = matches!(result, Ok(true));
    if cli.keep || !all_well {
        show.line(&format!(
            "\nThe files are kept in {}; the programs' log is hookline.log there.",
            files.dir.display()
        ));
    } else {
        std::fs::remove_dir_all(&files.dir)
            .with_context(|| format!("cannot remove {}", files.dir.display()))?;
    }
    result
}

fn try_out(
    cli: &Cli,
    show: &Show,
    files: &Files,
    runtime: &Runtime,
    interrupt: &Interrupt,
) -> anyhow::Result<bool> {
    product::log_to(&files.log)?;
    show.line(&format!("files                {}", files.dir.display()));
    let broker = broker::Embedded::start()?;
    let case = cli.scenario.as_ref().map(|name| Case::start(files, name, cli.seed)).transpose()?;
    let sources = match &case {
        Some(case) => case.sources(files)?,
        None => Sources::of_trial(files),
    };
    let config = config::write(files, &broker.bootstrap_servers(), &sources)?;
    broker.create_topics(&config)?;
    show.line(&format!("broker, in memory    {}", broker.bootstrap_servers()));
    let product = product::start(runtime, &config)?;
    show.line(&format!("ingest               {}/webhooks/{{source}}", product.url));
    show.line(&format!("metrics              {}", product.metrics_url));
    show.line(&format!("processor, to SQLite {}", files.database.display()));
    let (agrees, json) = match case {
        Some(case) => {
            let outcome = case.run(show, files, &product)?;
            outcome.table(show);
            (outcome.agrees(), outcome.json())
        }
        None => {
            let seed = cli.seed.unwrap_or(1);
            let outcome = trial::run(show, files, &product, seed, usize::try_from(cli.webhooks)?)?;
            outcome.table(show);
            (outcome.agrees(), outcome.json())
        }
    };
    show::caveat(show);
    if cli.json {
        println!("{json}");
    }
    if cli.keep {
        show::how_to_look(show, files);
        if cli.scenario.is_none() {
            show::how_to_send(show, &product.url, files);
        }
        show.line("\nEverything stays up until Ctrl-C.");
        interrupt.wait();
    } else {
        show.line("To look at the rows and to send webhooks by hand with curl, run it with --keep:");
        show.line("  cargo run --release -p quickstart -- --keep");
    }
    product.stop(runtime);
    // The broker goes last: the processor's last checkpoint needs it.
    drop(broker);
    Ok(agrees)
}

/// Ctrl-C: ends the run at once and removes the files, or ends the waiting of `--keep`, which keeps them.
struct Interrupt {
    waiting: Arc<AtomicBool>,
    pressed: mpsc::Receiver<()>,
}

impl Interrupt {
    fn listen(runtime: &Runtime, remove: Option<PathBuf>) -> Self {
        let waiting = Arc::new(AtomicBool::new(false));
        let (send, pressed) = mpsc::channel();
        let is_waiting = waiting.clone();
        runtime.spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                if !is_waiting.load(Ordering::SeqCst) {
                    let _ = remove.as_ref().map(std::fs::remove_dir_all);
                    std::process::exit(130);
                }
                let _ = send.send(());
            }
        });
        Self { waiting, pressed }
    }

    fn wait(&self) {
        self.waiting.store(true, Ordering::SeqCst);
        let _ = self.pressed.recv();
        // A second one does not wait for the end.
        self.waiting.store(false, Ordering::SeqCst);
    }
}
