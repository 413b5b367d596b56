//! Reads the processor's verdicts from its `/metrics`, as any monitoring would.

use anyhow::Context as _;
use sandbox::delivery::Verdicts;

/// The counter of events that ended in a verdict, labelled `verdict`.
const EVENTS: &str = "hookline_processor_events_total";
/// The gauge of events that wait for an earlier one.
const HELD: &str = "hookline_processor_held_events";

/// Asks for the verdicts as of the last checkpoints.
pub(crate) fn read(url: &str) -> anyhow::Result<Verdicts> {
    let mut response = ureq::get(url).call().with_context(|| format!("cannot read {url}"))?;
    Ok(parse(&response.body_mut().read_to_string()?))
}

fn parse(text: &str) -> Verdicts {
    let verdict = |name: &str| sum(text, EVENTS, &format!("verdict=\"{name}\""));
    Verdicts {
        applied: verdict("applied"),
        duplicates: verdict("duplicate"),
        stale: verdict("stale"),
        held: sum(text, HELD, ""),
        dead_lettered: verdict("dead_lettered"),
        ignored: verdict("ignored"),
    }
}

/// The sum of a metric's samples that have a label.
fn sum(text: &str, name: &str, label: &str) -> usize {
    let samples = text.lines().filter_map(|line| line.strip_prefix(name)).filter_map(|rest| {
        let (labels, value) = rest.rsplit_once(' ')?;
        let whole_name = labels.is_empty() || labels.starts_with('{');
        (whole_name && labels.contains(label)).then(|| value.parse::<f64>().ok())?
    });
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of events, far below 2^52"
    )]
    {
        samples.sum::<f64>() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_partitions() {
        let text = format!(
            "# TYPE {EVENTS} counter\n{EVENTS}{{partition=\"0\",verdict=\"applied\"}} 3\n\
             {EVENTS}{{partition=\"1\",verdict=\"applied\"}} 4\n{EVENTS}{{verdict=\"stale\"}} 2\n\
             {EVENTS}_created{{verdict=\"stale\"}} 99\n{HELD} 5\n"
        );
        assert_eq!(parse(&text), Verdicts { applied: 7, stale: 2, held: 5, ..Verdicts::default() });
    }
}
