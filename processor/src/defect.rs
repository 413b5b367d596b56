//! Deliberate defects: each takes away one thing that the protocol rests on, where the simulation cannot do
//! so from outside. `tests/run simulation` switches them on one by one and must catch each.
//!
//! Without the cargo feature `defects`, [`planted`] is always false and nothing of this is in the program.

/// What is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// P2: a ticket is valid as long as the partition is assigned, also by a later assignment.
    TicketNumberIgnored,
    /// P2: a record from the reader's queue is folded whatever its offset.
    AnyOffsetFolded,
    /// P2: a hole in what the reader gives is taken for the log's at once.
    HoleTaken,
    /// P3: a journal made anew starts with the first lineage again.
    LineageRestarts,
    /// P6: a journal record of an old epoch counts.
    OldEpochObeyed,
    /// P6: the chain of digests is not checked.
    ChainUnchecked,
    /// P8: the journal is trimmed when a snapshot is begun, not when all of it is committed.
    TrimmedEarly,
    /// P8: the snapshot before goes when the next one is begun.
    OldSnapshotFirst,
    /// P8: a snapshot is said to cover what the journal holds when it is finished.
    CoveredLate,
    /// P8: refusals that are not met yet are left out of a snapshot.
    RefusalsLeftOut,
    /// P8: a snapshot counts without all its chunks.
    HalfSnapshot,
    /// P8: ids are spilled while a snapshot is being cut.
    SpilledMeanwhile,
    /// P4: of an id that may have been spilled the store is not asked.
    SpilledUnasked,
    /// P7, P9: where the journal is lost, refusals are not read back from the dead letters.
    RefusalsNotRead,
    /// P9: the local state is taken without its mark.
    MarkUnchecked,
    /// P9: local state from beyond the own claim, of a journal that was lost, is waited for.
    MarkAboveClaim,
    /// P9: outputs and dead letters are repeated where a lost journal makes the log be folded anew.
    NotSilent,
    /// P9: what a replay adds to the local state is not written back to it.
    ReplayNotStored,
    /// P4: the first configuration is the owner's own, not the log's.
    OwnConfigFirst,
    /// P4: a configuration record of an earlier owner is obeyed.
    ConfigEpochIgnored,
    /// P4: stream time is the last append time, not the highest: it falls when a broker's clock does.
    StreamTimeFalls,
    /// P4: ids that one window made expire come back when a longer one is configured.
    IdsComeBack,
    /// P11: a log made anew or truncated is not looked for.
    OtherLogUnchecked,
    /// P9: where journal and the log's start are both gone, what is left is folded as if it were all.
    TrimmedLogFolded,
    /// P11: records that were deleted before they were folded are passed over.
    UnreadPassedOver,
    /// P11: a sink restored from an older backup is not looked for.
    OlderSinkUnchecked,
    /// P5: of a batch that was refused the first event is dead-lettered, untried.
    BatchRefusalBlamesFirst,
    /// P7: a refusal is kept in memory only.
    RefusalInMemory,
    /// P7: a refusal moves the checkpoint.
    RefusalMovesCheckpoint,
    /// P6: the journal holds where the fold is in place of where the sink's fence is.
    FenceIsHead,
    /// P6: the checkpoint covers what is folded, delivered or not.
    CheckpointFirst,
    /// P6: what is folded while a checkpoint is committed counts as part of it.
    OverlayCovered,
    /// P6: after a slow commit the producers are replaced when the next transaction is under way.
    RenewedLate,
    /// P6: after a slow commit the producer is not replaced.
    NotRenewed,
    /// P10: `gap-expired` is obeyed for whatever gap stands.
    GapUnmatched,
    /// P10: `gap-expired` is appended once only.
    GapAppendedOnce,
    /// P10: `gap-expired` is obeyed before the deadline.
    GapEarly,
    /// P10: another pipeline's `gap-expired` is obeyed.
    OtherPipelineObeyed,
    /// P10: `gap-skip` is obeyed for whatever gap stands.
    SkipUnmatched,
    /// P10: a gap whose policy is to park is skipped.
    ParkedSkipped,
    /// P10: a parked gap expires after another wait.
    ParkedExpires,
    /// P10: nobody asks for what is missing.
    NotAskedFor,
    /// P14: held events that a snapshot is newer than are applied after it.
    OlderThanSnapshotReleased,
    /// P14: a snapshot without a number closes the gap.
    UnnumberedCloses,
    /// P14: a webhook with the number of an applied snapshot is a conflict.
    SnapshotConflicts,
    /// P14: a snapshot closes the gap, though its number is behind the one that is missing.
    SnapshotBehindCloses,
    /// P14: a snapshot is decided as one where the configuration in force is for a fold that knew none.
    SnapshotBeforeItsVersion,
}

#[cfg(feature = "defects")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Defect>> = const { std::cell::Cell::new(None) };
}

/// Whether a defect is switched on in this thread.
#[cfg(feature = "defects")]
#[must_use]
pub fn planted(defect: Defect) -> bool {
    PLANTED.get() == Some(defect)
}

/// Whether a defect is switched on: never.
#[cfg(not(feature = "defects"))]
#[must_use]
pub const fn planted(_: Defect) -> bool {
    false
}

/// Switches a defect on in this thread, or all off.
#[cfg(feature = "defects")]
pub fn plant(defect: Option<Defect>) {
    PLANTED.set(defect);
}
