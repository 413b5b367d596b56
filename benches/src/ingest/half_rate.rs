//! How long requests take at half of what a receiver can do at most: an open loop, in which each request's time runs from
//! when it was to be sent. wrk cannot keep a rate.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use crate::peers::receivers::Receiver;
use crate::sender;
use crate::stats::{Percentiles, PercentilesSpread};
use crate::visible::{between, since};

/// Not counted: connections are opened meanwhile.
const WARM_UP_SECONDS: u32 = 2;

/// Runs of one receiver.
#[derive(Serialize)]
pub(super) struct HalfRate {
    /// Half of the median of what it did at most.
    requests_per_second: u32,
    latency: PercentilesSpread,
    /// How late the sender was itself, which is part of the latency.
    sender_late: PercentilesSpread,
    /// 200s in all runs.
    #[serde(skip)]
    pub(super) answered: u64,
}

/// Measures the receivers in turn, each at its rate; those without one not at all.
pub(super) fn measure(
    receivers: &[Receiver],
    rates: &[Option<u32>],
    (runs, seconds): (u32, u32),
    body_bytes: usize,
) -> anyhow::Result<Vec<Option<HalfRate>>> {
    let mut found: Vec<Vec<(Percentiles, Percentiles)>> = receivers.iter().map(|_| Vec::new()).collect();
    for n in 1..=runs {
        for ((receiver, rate), found) in receivers.iter().zip(rates).zip(&mut found) {
            let Some(rate) = *rate else { continue };
            let requests = requests(rate, seconds);
            let sent = sender::send(receiver.listen, rate, requests, body_bytes)
                .with_context(|| receiver.name.to_owned())?;
            let started = *sent.scheduled.values().min().context("nothing was sent")?;
            let counted = since(sent.scheduled, started + Duration::from_secs(WARM_UP_SECONDS.into()));
            let latency = between(&counted, &sent.answered)?;
            println!("run {n}, {}, open loop at {rate}/s: {latency}", receiver.name);
            found.push((latency, sender::lateness(&counted, &sent.begun)?));
        }
    }
    let half = |(rate, found): (&Option<u32>, Vec<(Percentiles, Percentiles)>)| {
        let (latencies, late): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        rate.map(|rate| HalfRate {
            requests_per_second: rate,
            latency: PercentilesSpread::of(&latencies),
            sender_late: PercentilesSpread::of(&late),
            answered: u64::from(requests(rate, seconds)) * u64::from(runs),
        })
    };
    Ok(rates.iter().zip(found).map(half).collect())
}

fn requests(rate: u32, seconds: u32) -> u32 {
    rate * (WARM_UP_SECONDS + seconds)
}
