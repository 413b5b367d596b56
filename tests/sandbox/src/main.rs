//! `sandbox`: sends webhooks to a running ingest, or is the provider whose API Hookline polls; and prints the
//! configuration that is needed for either.
#![allow(clippy::print_stdout, reason = "a command-line program")]

mod serve;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use sandbox::plan::{Plan, Sizes};
use sandbox::send::{self, Report};
use sandbox::{check, sources};

/// Differences that are printed; more are counted.
const SHOWN_MAX: usize = 20;

/// Plays Makini and GitHub: sends signed webhooks with repeats, disorder, gaps, garbage and forgeries.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sends a plan, and says whether each delivery was answered as it must be.
    Send {
        /// Where ingest listens.
        #[arg(long, default_value = "http://127.0.0.1:8080")]
        url: String,
        /// How many webhooks.
        #[arg(long, default_value_t = 3_000)]
        webhooks: usize,
        /// Decides everything that is random: the same seed sends the same events.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Threads, each with a connection of its own.
        #[arg(long, default_value_t = 8)]
        concurrency: usize,
        /// The receiver's `ingest.body_limit`, in bytes.
        #[arg(long, default_value_t = 1_048_576)]
        body_limit: usize,
        /// Print the result as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Prints the `[sources.*]` tables for hookline.toml, and the environment variables with their secrets.
    Config,
    /// Is a provider: an API to poll, webhooks about what changes, and a scenario of what goes wrong.
    Serve(serve::Serve),
    /// Lists the scenarios, and what each shows.
    Scenarios,
    /// Prints the `[sources.NAME]` tables for the provider that `serve` is.
    ProviderConfig(serve::ProviderConfig),
    /// Compares an SQLite sink with what a running provider expects, row by row.
    #[cfg(feature = "sqlite")]
    Check(serve::Check),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Send { url, webhooks, seed, concurrency, body_limit, json } => {
            let plan = Plan::new(Sizes { seed, webhooks, body_limit });
            let report = send(&plan, &send::Options { concurrency, ..send::Options::to(&url) });
            let differences = check::answers(&plan, &report);
            if json {
                println!("{}", as_json(&plan, &report, differences.len()));
            } else {
                print_report(&plan, &report);
            }
            print_differences(&differences);
            if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::Config => {
            print_config();
            ExitCode::SUCCESS
        }
        #[cfg(feature = "sqlite")]
        Command::Check(args) => serve::check(&args),
        Command::Serve(args) => serve::serve(args),
        Command::Scenarios => {
            serve::scenarios();
            ExitCode::SUCCESS
        }
        Command::ProviderConfig(args) => {
            serve::provider_config(&args);
            ExitCode::SUCCESS
        }
    }
}

fn print_differences(differences: &[check::Difference]) {
    for difference in differences.iter().take(SHOWN_MAX) {
        eprintln!("{difference}");
    }
    if differences.len() > SHOWN_MAX {
        eprintln!("and {} more", differences.len() - SHOWN_MAX);
    }
}

/// Sends all phases. Between them Hookline gives up the gaps that never close: two waits, since the second
/// begins when it reads the first event behind the gap.
fn send(plan: &Plan, options: &send::Options) -> Report {
    let mut report = Report::default();
    for phase in 0..=plan.last_phase() {
        if phase > 0 {
            let pause = sources::GAP_WAIT * 2 + Duration::from_secs(3);
            eprintln!("waiting {pause:?} until the gaps that never close are given up");
            std::thread::sleep(pause);
        }
        let total = plan.deliveries.iter().filter(|delivery| delivery.phase == phase).count();
        eprintln!("sending {total} webhooks to {}", options.base_url);
        report.extend(send::phase(plan, phase, options, &|done| {
            if done % 1_000 == 0 {
                eprintln!("{done} of {total}");
            }
        }));
    }
    report
}

fn print_report(plan: &Plan, report: &Report) {
    let totals = plan.totals(plan.last_phase());
    let verdicts = totals.verdicts;
    println!("sent            {:>7}   in {:.1} s", totals.sent, report.took.as_secs_f64());
    for (status, count) in report.statuses() {
        let expected =
            if status == 200 { totals.accepted } else { *totals.refused.get(&status).unwrap_or(&0) };
        println!("answered {status}    {count:>7}   expected {expected}");
    }
    println!("sent again      {:>7}", report.retries());
    println!("Of those answered with 200, Hookline must have");
    println!(
        "  applied       {:>7}   of these {} had to wait for an earlier one",
        verdicts.applied, totals.waited
    );
    println!("  duplicates    {:>7}", verdicts.duplicates);
    println!("  stale         {:>7}", verdicts.stale);
    println!("  dead-lettered {:>7}", verdicts.dead_lettered);
    println!("  ignored       {:>7}", verdicts.ignored);
    let slow = report.slow_gaps(plan, sources::GAP_WAIT);
    if slow > 0 {
        println!("{slow} gaps closed later than gap_wait: some of these are stale now instead of applied");
    }
}

fn as_json(plan: &Plan, report: &Report, differences: usize) -> serde_json::Value {
    let totals = plan.totals(plan.last_phase());
    let verdicts = totals.verdicts;
    let by_status = |counts: std::collections::BTreeMap<u16, usize>| -> serde_json::Map<_, _> {
        counts.into_iter().map(|(status, count)| (status.to_string(), count.into())).collect()
    };
    serde_json::json!({
        "sent": totals.sent,
        "seconds": report.took.as_secs_f64(),
        "answers": by_status(report.statuses()),
        "retries": report.retries(),
        "slow_gaps": report.slow_gaps(plan, sources::GAP_WAIT),
        "answers_agree": differences == 0,
        "expected": {
            "refused": by_status(totals.refused),
            "accepted": totals.accepted,
            "applied": verdicts.applied,
            "waited": totals.waited,
            "duplicates": verdicts.duplicates,
            "stale": verdicts.stale,
            "held": verdicts.held,
            "dead_lettered": verdicts.dead_lettered,
            "ignored": verdicts.ignored,
            "rows": plan.rows(),
        },
    })
}

fn print_config() {
    println!("# Add to hookline.toml:");
    print!("{}", sources::config_toml(sources::GAP_WAIT, |secret| format!("env:{}", secret.name)));
    println!("\n# Before ingest and the processor are started, in the shell:");
    for secret in sources::secrets() {
        println!("# export {}={}", secret.name, secret.value);
    }
}
