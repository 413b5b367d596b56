//! What the quickstart prints: progress, the table, and how to go on by hand.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sandbox::check::Difference;
use sandbox::delivery::{Totals, Verdicts};
use sandbox::sources::{CONNECTIONS, MAKINI};

use crate::config::{Files, GAP_WAIT};

/// Differences that are printed; more are counted.
pub(crate) const DIFFERENCES_MAX: usize = 20;
/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Where text for people goes: standard output, or standard error where that is for JSON.
pub(crate) struct Show {
    to_stderr: bool,
    /// Whether lines can be written over.
    live: bool,
    shown: Mutex<Option<Instant>>,
}

impl Show {
    pub(crate) fn new(json: bool) -> Self {
        let live = if json { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        Self { to_stderr: json, live, shown: Mutex::new(None) }
    }

    /// A line. That nobody reads it any more is no reason to stop.
    pub(crate) fn line(&self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// A line that the next one writes over, where that can be; else it is shown when `last`.
    pub(crate) fn progress(&self, text: &str, last: bool) {
        let mut shown = self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last {
            *shown = None;
            self.write(&format!("{}{text}\n", if self.live { "\r\x1b[K" } else { "" }));
        } else if self.live && shown.is_none_or(|at| at.elapsed() > PROGRESS_EVERY) {
            *shown = Some(Instant::now());
            self.write(&format!("\r\x1b[K{text}"));
        }
    }

    fn write(&self, text: &str) {
        let _ = if self.to_stderr {
            std::io::stderr().write_all(text.as_bytes())
        } else {
            let mut out = std::io::stdout();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
    }
}

/// What came of a run.
pub(crate) struct Outcome {
    /// What the plan says.
    pub(crate) expected: Totals,
    /// Answers by status.
    pub(crate) answers: BTreeMap<u16, usize>,
    /// Verdicts as the processor counts them.
    pub(crate) verdicts: Verdicts,
    /// Rows of the table of applied events.
    pub(crate) rows: usize,
    /// Everything that is not as the plan says.
    pub(crate) differences: Vec<Difference>,
}

impl Outcome {
    fn accepted(&self) -> usize {
        self.answers.get(&200).copied().unwrap_or(0)
    }

    fn refused(&self) -> usize {
        self.answers.iter().filter(|(status, _)| **status != 200).map(|(_, count)| count).sum()
    }

    pub(crate) fn agrees(&self) -> bool {
        self.differences.is_empty()
    }

    /// The one object of `--json`.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "sent": self.expected.sent,
            "refused": self.refused(),
            "accepted": self.accepted(),
            "applied": self.verdicts.applied,
            "duplicates": self.verdicts.duplicates,
            "stale": self.verdicts.stale,
            "held": self.verdicts.held,
            "dead_lettered": self.verdicts.dead_lettered,
            "ignored": self.verdicts.ignored,
            "rows": self.rows,
            "agree": self.agrees(),
        })
    }

    /// The table, and the differences if there are any.
    pub(crate) fn table(&self, show: &Show) {
        let (expected, verdicts) = (&self.expected, &self.verdicts);
        let row = |name: &str, found: usize, expected: usize, note: &str| {
            let mark = if found == expected { "" } else { "  ✗" };
            show.line(&format!("  {name:<24}{found:>8}{expected:>10}{mark}  {note}"));
        };
        show.line("");
        show.line(&format!("  {:<24}{:>8}{:>10}", "", "found", "expected"));
        row("sent", self.answers.values().sum(), expected.sent, "");
        row("refused", self.refused(), expected.refused_in_all(), "");
        let statuses = self.answers.keys().chain(expected.refused.keys()).filter(|status| **status != 200);
        for status in statuses.collect::<std::collections::BTreeSet<_>>() {
            let count = |of: &BTreeMap<u16, usize>| of.get(status).copied().unwrap_or(0);
            row(&format!("  {status}"), count(&self.answers), count(&expected.refused), reason(*status));
        }
        row("accepted (200)", self.accepted(), expected.accepted, "durable in the log before the answer");
        let waited = format!("of these {} had to wait for an earlier one", expected.waited);
        let wanted = &expected.verdicts;
        row("  applied", verdicts.applied, wanted.applied, &waited);
        row("  duplicates", verdicts.duplicates, wanted.duplicates, "the id was there before");
        row("  stale", verdicts.stale, wanted.stale, "a later state was applied already");
        row("  held", verdicts.held, wanted.held, "waiting for a number that is missing");
        row(
            "  dead-lettered",
            verdicts.dead_lettered,
            wanted.dead_lettered,
            "cannot be read, or contradicts",
        );
        row("  ignored", verdicts.ignored, wanted.ignored, "by configuration");
        row("rows in SQLite", self.rows, wanted.applied, "one for each that is applied");
        show.line("");
        if self.agrees() {
            show.line("All agrees: every answer, every verdict, and every row, compared one by one.");
            return;
        }
        show.line(&format!("NOT as it must be, {} differences:", self.differences.len()));
        for difference in self.differences.iter().take(DIFFERENCES_MAX) {
            show.line(&format!("  {difference}"));
        }
        if self.differences.len() > DIFFERENCES_MAX {
            show.line(&format!("  and {} more", self.differences.len() - DIFFERENCES_MAX));
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        401 => "forged, unsigned, altered, too old, or another customer's secret",
        404 => "no such source",
        413 => "body too large",
        422 => "an array of events, which this source does not take",
        _ => "",
    }
}

/// What this was, and what to use instead.
pub(crate) fn caveat(show: &Show) {
    show.line("");
    show.line(
        "The broker of this quickstart lives in this process and keeps nothing on disk: when it ends, the",
    );
    show.line(
        "log is gone. For anything that matters run ingest and the processor against a real Kafka; the",
    );
    show.line("README says how.");
}

/// How to look at the rows.
pub(crate) fn how_to_look(show: &Show, files: &Files) {
    let file = files.database.display();
    let query = "SELECT source, connection, entity, sequence, type FROM hookline_events LIMIT 10";
    show.line("");
    show.line("Look at the rows:");
    show.line(&format!("  sqlite3 {file} \\\n    '{query}'"));
    show.line("or, without sqlite3:");
    show.line(&format!("  cargo run --release -p quickstart -- --sql {file} \\\n    '{query}'"));
    show.line(
        "The tables: hookline_events (each applied event), hookline_entities (each entity's latest state).",
    );
}

/// How to send a webhook by hand: complete commands.
pub(crate) fn how_to_send(show: &Show, url: &str, files: &Files) {
    let [acme, ..] = CONNECTIONS;
    show.line("");
    show.line("Send a webhook by hand (paste it all):");
    show.line(&curl(url, acme.id, acme.secret.value));
    show.line(
        "It is answered with 200, and is a row a moment later. Paste it again: 200, and a duplicate. Change",
    );
    show.line(&format!(
        "BODY after SIG: 401. Send \"sequence\":3 before 2: held back until 2 comes or {GAP_WAIT:?} are over."
    ));
    show.line("");
    let file = files.database.display();
    let query = "SELECT entity, sequence, body FROM hookline_events WHERE event_id = 'by-hand-1'";
    show.line(&format!("  cargo run --release -p quickstart -- --sql {file} \\\n    \"{query}\""));
}

fn curl(url: &str, connection: &str, secret: &str) -> String {
    format!(
        r#"  BODY='{{"id":"by-hand-1","type":"purchase_order.created","sequence":1,"data":{{"number":"4599999999"}}}}'
  TIME=$(date +%s)
  SIG=$(printf '%s.%s' "$TIME" "$BODY" | openssl dgst -sha256 -hmac '{secret}' -r | cut -d' ' -f1)
  curl -isS {url}/webhooks/{MAKINI}/{connection} -H 'content-type: application/json' \
    -H "x-makini-timestamp: $TIME" -H "x-makini-signature: sha256=$SIG" --data-binary "$BODY""#
    )
}

#[cfg(test)]
mod tests {
    use sandbox::check::Kind;

    use super::*;

    #[test]
    fn one_difference_is_no_agreement() {
        let mut outcome = Outcome {
            expected: Totals { sent: 3, ..Totals::default() },
            answers: [(200, 2), (401, 1)].into(),
            verdicts: Verdicts { applied: 2, ..Verdicts::default() },
            rows: 2,
            differences: Vec::new(),
        };
        let json = outcome.json();
        assert_eq!(
            (&json["agree"], &json["accepted"], &json["refused"]),
            (&true.into(), &2.into(), &1.into())
        );
        outcome.differences.push(Difference { kind: Kind::MissingRow, about: String::new() });
        assert_eq!(outcome.json()["agree"], false);
    }
}
