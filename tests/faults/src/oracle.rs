//! Compares what the sink has with what was answered with 200, knowing nothing of the processor's own books; then
//! those books must agree, too.

use std::collections::BTreeSet;

use hookline_tests::load::differences;
use hookline_tests::postgres::query;
use hookline_tests::site::{PATIENCE, processor, row_count, stderr, stdout};
use hookline_tests::wait;
use sandbox::check::{Difference, Kind};

use crate::world::World;

/// Differences that are shown.
const SHOWN_MAX: usize = 50;

/// What was found.
pub(crate) struct Found {
    /// Events that were answered with 200.
    pub(crate) acknowledged: usize,
    /// Rows in the sink.
    pub(crate) applied: usize,
    /// Events without a row.
    pub(crate) lost: usize,
    /// Rows too many.
    pub(crate) twice: usize,
    /// Rows of an entity in another order than its events'.
    pub(crate) out_of_order: usize,
    /// All else that is not as it must be: contents, states of entities, the processor's books.
    pub(crate) other: usize,
    /// In words.
    pub(crate) differences: Vec<String>,
}

impl Found {
    /// All is as it must be.
    pub(crate) fn is_right(&self) -> bool {
        self.lost + self.twice + self.out_of_order + self.other == 0
    }
}

/// Stops the load, waits until all of it is applied, or is not, and compares.
pub(crate) fn judge(world: World) -> Found {
    let World { site, mut instances, load, url, refused, .. } = world;
    let plans = load.finish();
    let acknowledged = plans.iter().map(|plan| plan.applied.len()).sum();
    wait::within(PATIENCE, || (row_count(&url) >= acknowledged).then_some(()));
    let differences = differences(&site, &url, &plans);
    let count = |kinds: &[Kind]| differences.iter().filter(|d| kinds.contains(&d.kind)).count();
    let lost = count(&[Kind::MissingRow]);
    let twice = count(&[Kind::DoubleRow, Kind::ExtraRow]);
    let out_of_order = count(&[Kind::WrongOrder, Kind::WrongPosition]);
    let mut other = differences.len() - lost - twice - out_of_order;
    let mut lines: Vec<String> = differences.iter().take(SHOWN_MAX).map(Difference::to_string).collect();
    let refused_rows = query(&url, "SELECT event_id FROM hookline_events WHERE event_id LIKE 'refused-%'");
    let dead_letters: Vec<_> = site.dead_letters().iter().map(|letter| letter.header("ce_id")).collect();
    let refused: Vec<_> = refused.into_iter().map(Some).collect();
    if !refused_rows.is_empty() || dead_letters.iter().collect::<BTreeSet<_>>() != refused.iter().collect() {
        other += 1;
        lines.push(format!("refused {refused:?}, dead letters {dead_letters:?}, applied {refused_rows:?}"));
    }
    // Each compares with the local state that it has.
    for instance in &instances {
        let verified = processor(&site, "verify", instance, &[]);
        if !verified.status.success() {
            other += 1;
            lines.push(format!("processor verify: {}{}", stdout(&verified), stderr(&verified)));
        }
    }
    for instance in instances.iter_mut().filter(|instance| instance.program.is_running()) {
        instance.program.terminate();
    }
    Found { acknowledged, applied: row_count(&url), lost, twice, out_of_order, other, differences: lines }
}
