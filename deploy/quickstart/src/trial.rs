//! The trial: sends the plan, waits until every webhook has its verdict, and compares.

use std::time::{Duration, Instant};

use sandbox::check;
use sandbox::delivery::Verdicts;
use sandbox::plan::{Plan, Sizes};
use sandbox::send::{self, Report};

use crate::config::{BODY_LIMIT, Files, GAP_WAIT};
use crate::counts;
use crate::product::Product;
use crate::show::{Outcome, Show};

/// How long nothing may change before waiting is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the verdicts are read.
const POLL: Duration = Duration::from_millis(50);
/// How long to wait for verdicts of attempts that were repeated: whether they are in the log is not known.
const AFTER_RETRIES: Duration = Duration::from_secs(2);

/// Sends everything, and compares answers, verdicts and rows with the plan.
pub(crate) fn run(
    show: &Show,
    files: &Files,
    product: &Product,
    seed: u64,
    webhooks: usize,
) -> anyhow::Result<Outcome> {
    let plan = Plan::new(Sizes { seed, webhooks, body_limit: BODY_LIMIT });
    show.line(&format!(
        "\n{webhooks} webhooks, seed {seed}: orders, connection events and repository events, with"
    ));
    show.line("repeats, disorder, gaps, garbage and forged signatures");
    let mut report = Report::default();
    let mut verdicts = Verdicts::default();
    for phase in 0..=plan.last_phase() {
        report.extend(send(show, product, &plan, phase));
        let accepted = report.statuses().get(&200).copied().unwrap_or(0);
        verdicts = settle(show, product, accepted, report.retries())?;
    }
    let (rows, entities) = sandbox::rows::read_sqlite(&files.database)?;
    let expected = plan.totals(plan.last_phase());
    let mut differences = check::answers(&plan, &report);
    differences.extend(check::verdicts(&expected.verdicts, &verdicts, report.retries()));
    differences.extend(check::rows(&plan.entities, &rows));
    differences.extend(check::entities(&plan.entities, &entities));
    let slow = report.slow_gaps(&plan, GAP_WAIT);
    if slow > 0 && !differences.is_empty() {
        show.line(&format!(
            "{slow} gaps closed later than gap_wait ({GAP_WAIT:?}), since this machine was too busy: what comes \
             after a gap that was given up is stale. Try again, with fewer --webhooks."
        ));
    }
    Ok(Outcome { expected, answers: report.statuses(), verdicts, rows: rows.len(), differences })
}

fn send(show: &Show, product: &Product, plan: &Plan, phase: usize) -> Report {
    let total = plan.deliveries.iter().filter(|delivery| delivery.phase == phase).count();
    if phase > 0 {
        show.line("now what was missing comes, too late, and repeats");
    }
    let report = send::phase(plan, phase, &send::Options::to(&product.url), &|done| {
        show.progress(&format!("sent {done} of {total}"), false);
    });
    let seconds = report.took.as_secs_f64();
    show.progress(&format!("sent {total} of {total} in {seconds:.1} s"), true);
    report
}

/// Waits until as many events as were accepted have a verdict and none is held.
fn settle(show: &Show, product: &Product, accepted: usize, retries: usize) -> anyhow::Result<Verdicts> {
    let begin = Instant::now();
    let (mut verdicts, mut changed) = (Verdicts::default(), Instant::now());
    loop {
        let now = counts::read(&product.metrics_url)?;
        if now != verdicts {
            (verdicts, changed) = (now, Instant::now());
        }
        let decided = verdicts.sum() - verdicts.held;
        let text = if verdicts.sum() >= accepted && verdicts.held > 0 {
            let held = verdicts.held;
            format!("decided {decided} of {accepted}; {held} wait {GAP_WAIT:?} for a number that never comes")
        } else {
            format!("decided {decided} of {accepted}")
        };
        let quiet = if retries > 0 { AFTER_RETRIES } else { Duration::ZERO };
        let done = decided >= accepted && verdicts.held == 0 && changed.elapsed() >= quiet;
        if done || changed.elapsed() > PATIENCE {
            let end = if done { "" } else { ": nothing has changed for a minute" };
            show.progress(&format!("{text} in {:.1} s{end}", begin.elapsed().as_secs_f64()), true);
            return Ok(verdicts);
        }
        show.progress(&text, false);
        std::thread::sleep(POLL);
    }
}
