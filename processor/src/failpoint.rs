//! What `tests/run faults` and `e2e` do to the program from inside: places at which it dies, as `kill -9` does, and a
//! fold that passes for a later one.
//!
//! Without the cargo feature `failpoints`, nothing of this is in the program. With it, the environment names one place,
//! and which passing of it is the last: `HOOKLINE_FAILPOINT=offsets-sent:3`; and by how much the fold's version is
//! higher: `HOOKLINE_LATER_FOLD=1`.

/// A place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// P2: partitions were assigned or taken back, the lanes are not yet told.
    Rebalancing,
    /// P4: records are folded, nothing of them is delivered.
    Folded,
    /// P5: the sink has a batch that no checkpoint has.
    SinkApplied,
    /// P6: outputs and journal records are acknowledged.
    JournalWritten,
    /// P6: the offsets are part of the transaction, whose end is not yet asked for.
    OffsetsSent,
    /// P6: the transaction is committed, the local state is older.
    Committed,
    /// P6: the local state has a part of what it was to write.
    StoreHalfWritten,
    /// P8: a part of a snapshot is written.
    ChunkWritten,
    /// P8: the journal is trimmed, the older snapshot is still there.
    JournalTrimmed,
    /// P9: the local state's database is open, and not yet looked at.
    StoreOpened,
    /// P9: some of the journal is replayed.
    Restoring,
    /// Of `processor alerts`: an alert is sent, and not yet written as told.
    AlertSent,
}

impl Point {
    /// All of them, with their names.
    pub const ALL: &[(Self, &str)] = &[
        (Self::Rebalancing, "rebalancing"),
        (Self::Folded, "folded"),
        (Self::SinkApplied, "sink-applied"),
        (Self::JournalWritten, "journal-written"),
        (Self::OffsetsSent, "offsets-sent"),
        (Self::Committed, "committed"),
        (Self::StoreHalfWritten, "store-half-written"),
        (Self::ChunkWritten, "chunk-written"),
        (Self::JournalTrimmed, "journal-trimmed"),
        (Self::StoreOpened, "store-opened"),
        (Self::Restoring, "restoring"),
        (Self::AlertSent, "alert-sent"),
    ];
}

/// The variable that names a place.
pub const VARIABLE: &str = "HOOKLINE_FAILPOINT";

/// The variable that makes the fold pass for a later one.
pub const LATER_FOLD: &str = "HOOKLINE_LATER_FOLD";

/// By how much the fold's version is higher than it is.
#[cfg(not(feature = "failpoints"))]
pub const fn later_fold() -> u32 {
    0
}

/// By how much the fold's version is higher than it is.
#[cfg(feature = "failpoints")]
pub fn later_fold() -> u32 {
    static LATER: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *LATER.get_or_init(|| std::env::var(LATER_FOLD).ok().and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Dies here, if this is the place.
#[cfg(not(feature = "failpoints"))]
pub const fn pass(_: Point) {}

/// Dies here, if this is the place.
///
/// # Panics
/// The environment names no place.
#[cfg(feature = "failpoints")]
pub fn pass(point: Point) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static LAST: OnceLock<Option<(Point, AtomicU32)>> = OnceLock::new();
    let last = LAST.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let Some(parsed) = parse(&text) else { panic!("{VARIABLE}={text}: no such place") };
        Some(parsed)
    });
    if let Some((last, left)) = last
        && *last == point
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(feature = "failpoints")]
fn parse(text: &str) -> Option<(Point, std::sync::atomic::AtomicU32)> {
    let (name, times) = text.split_once(':')?;
    let (point, _) = Point::ALL.iter().find(|(_, known)| *known == name)?;
    Some((*point, std::sync::atomic::AtomicU32::new(times.parse().ok()?)))
}
