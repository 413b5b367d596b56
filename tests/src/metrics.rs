//! Prometheus' text format, as far as the tests ask: samples with their labels.

use std::collections::BTreeMap;

/// All samples of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One line of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Metrics {
    /// Parses a scrape; comments are left out.
    ///
    /// # Panics
    /// At a line that is no sample.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let is_sample = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
        let sample = |line| parse_line(line).unwrap_or_else(|| panic!("not a sample: {line}"));
        Self { samples: text.lines().filter(is_sample).map(sample).collect() }
    }

    /// The sum of the samples of this name that have at least these labels; none when there are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found =
            self.samples.iter().filter(|sample| sample.name == name && sample.has(labels)).peekable();
        found.peek()?;
        Some(found.map(|sample| sample.value).sum())
    }

    /// All samples.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

impl Sample {
    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(*name).is_some_and(|v| v == value))
    }
}

fn parse_line(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Reads `a="x",b="y"}` and returns what follows.
fn parse_labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at + 1,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        rest = &quoted[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_the_labels_that_are_not_asked_for() {
        let metrics = Metrics::parse(
            "# TYPE v counter\nv{p=\"0\",k=\"a\"} 2\nv{p=\"1\",k=\"a\"} 3\nv{p=\"1\",k=\"b,\\\"}\"} 5\n\nup 1\n",
        );
        assert_eq!(metrics.sum("v", &[("k", "a")]), Some(5.0));
        assert_eq!(metrics.sum("v", &[("k", "b,\"}")]), Some(5.0));
        assert_eq!(metrics.sum("v", &[]), Some(10.0));
        assert_eq!(metrics.sum("up", &[]), Some(1.0));
        assert_eq!(metrics.sum("v", &[("k", "c")]), None);
    }
}
