//! The deliberate defects: each takes away one thing that the protocol rests on. Those of the surroundings are
//! planted in the simulated ones, the others in the shipped code ([`processor::defect`]).

use processor::defect::Defect;

/// A deliberate defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// In the shipped code.
    Code(Defect),
    /// P1: the sink's fence has no ordinal.
    FenceWithoutOrdinal,
    /// P1: the sink moves its fence after the effects, and its client tries again by itself.
    FenceAfterEffects,
    /// P1: the sink's fence has no epoch.
    FenceWithoutEpoch,
    /// P1, rule 3: the sink moves its fence in a transaction of its own.
    FenceApart,
    /// P5: an unknown outcome is tried again under the same epoch, and what the fence says is a refusal.
    SameEpochRetry,
    /// P5: a failed connection is taken for a refusal.
    FailureIsRefusal,
    /// P2: tickets are invalidated when the lane hears of the revocation.
    CommitAfterRevoke,
    /// P2: an assignment without partitions does not renew the tickets of those that are kept.
    EmptyAssignIgnored,
    /// P6: outputs and dead letters go out after the journal's transaction.
    JournalBeforeOutputs,
    /// P6: a transaction is written before what the one before wrote is acknowledged.
    OutputsOvertake,
    /// P6: offsets are added before the journal record is acknowledged.
    OffsetsBeforeJournal,
    /// P6, P3: in place of a new producer the old one aborts, perhaps late.
    AbortInsteadOfInit,
    /// P4: on restore, ids are expired by the wall clock.
    IdsByWallClock,
    /// P9: what entities hold is lost on restore.
    HeldLost,
    /// P6, rule 5: the store takes a delta before its commit.
    StoredBeforeCommit,
    /// What a record releases is applied in the wrong order.
    ReleasedOutOfOrder,
    /// ingest remembers an id before the append.
    DeduplicatedBeforeAppend,
    /// P9: a journal whose start an open transaction hides is taken for lost.
    StartNotAwaited,
    /// P9: chunks are read without waiting for the transactions that hide them.
    OpenNotAwaited,
    /// P10: control records are appended in a transaction, which stays open when the process dies.
    ControlInTransaction,
}

/// All of them, with the line of the protocol that each is about.
pub const ALL: &[(Planted, &str)] = &[
    (Planted::FenceWithoutOrdinal, "P1 a fence without ordinal"),
    (Planted::FenceAfterEffects, "P1 the fence after the effects"),
    (Planted::FenceWithoutEpoch, "P1 no epoch in the fence"),
    (Planted::FenceApart, "P1 the fence not atomic with the effects"),
    (Planted::Code(Defect::OtherLogUnchecked), "P1, P11 a log made anew or an offset reused goes unseen"),
    (Planted::Code(Defect::TicketNumberIgnored), "P2 after A, B, A a stale lane commits"),
    (Planted::CommitAfterRevoke, "P2 commit after revoke, with the fresh generation"),
    (Planted::Code(Defect::AnyOffsetFolded), "P2 old queued records fold on the wrong state"),
    (Planted::EmptyAssignIgnored, "P2 an empty assignment does not renew the tickets"),
    (Planted::Code(Defect::HoleTaken), "P2 a record that the client left out is not missed"),
    (Planted::Code(Defect::LineageRestarts), "P3 epochs restart with a new journal"),
    (Planted::AbortInsteadOfInit, "P3, P6 no init_transactions: a delayed abort hits a later transaction"),
    (Planted::Code(Defect::OwnConfigFirst), "P4 a new owner decides by its own settings"),
    (Planted::Code(Defect::ConfigEpochIgnored), "P4 a configuration record of an earlier owner is obeyed"),
    (Planted::Code(Defect::StreamTimeFalls), "P4, rule 2 stream time falls with a broker's clock"),
    (Planted::Code(Defect::IdsComeBack), "P4 expired ids come back with a longer window"),
    (Planted::IdsByWallClock, "P4 ids expired by the wall clock"),
    (Planted::SameEpochRetry, "P5 a retry under the same epoch"),
    (Planted::FailureIsRefusal, "P5 a failure taken for a refusal"),
    (Planted::Code(Defect::BatchRefusalBlamesFirst), "P5 a refusal that was not tried alone"),
    (Planted::OffsetsBeforeJournal, "P6 offsets before the journal record's acknowledgement"),
    (Planted::Code(Defect::OldEpochObeyed), "P6 a journal record of an old epoch obeyed"),
    (Planted::JournalBeforeOutputs, "P6 the journal before the outputs"),
    (Planted::OutputsOvertake, "P6 outputs of the next transaction before those of the one that ends"),
    (
        Planted::Code(Defect::FenceIsHead),
        "P6 the fold's place in the journal for the fence: false older sink",
    ),
    (Planted::Code(Defect::CheckpointFirst), "P6 a checkpoint covers what is not delivered"),
    (Planted::Code(Defect::OverlayCovered), "P6 a checkpoint covers what is folded while it is committed"),
    (Planted::Code(Defect::ChainUnchecked), "P6 no chain of digests"),
    (Planted::Code(Defect::NotRenewed), "P6 no new producer after a slow commit"),
    (Planted::Code(Defect::RenewedLate), "P6 a new producer only under the next transaction"),
    (Planted::StoredBeforeCommit, "P6 sled applied before the commit"),
    (Planted::Code(Defect::RefusalInMemory), "P7 a refusal kept in memory"),
    (Planted::Code(Defect::RefusalMovesCheckpoint), "P7 a refusal moves the checkpoint"),
    (Planted::Code(Defect::TrimmedEarly), "P8 the journal trimmed before the snapshot is committed"),
    (Planted::StartNotAwaited, "P9 a journal's start that an open transaction hides is taken for lost"),
    (Planted::OpenNotAwaited, "P9 a snapshot that an open transaction hides is taken for lost"),
    (Planted::Code(Defect::OldSnapshotFirst), "P8 a half-written snapshot destroys the good one"),
    (Planted::Code(Defect::CoveredLate), "P8 the covered offset fixed late"),
    (Planted::Code(Defect::RefusalsLeftOut), "P8 open refusals left out of a snapshot"),
    (Planted::Code(Defect::HalfSnapshot), "P8 a snapshot that lacks a chunk"),
    (Planted::Code(Defect::SpilledMeanwhile), "P8 ids spilled past a snapshot that is being cut"),
    (Planted::Code(Defect::SpilledUnasked), "P4 an id that was spilled counts as new"),
    (Planted::Code(Defect::RefusalsNotRead), "P9 refusals of a lost journal forgotten"),
    (Planted::Code(Defect::MarkUnchecked), "P9 local state without its mark"),
    (Planted::Code(Defect::MarkAboveClaim), "P9 local state from beyond the claim, of a lost journal"),
    (Planted::Code(Defect::ReplayNotStored), "P9 the replayed tail missing from the local state"),
    (Planted::Code(Defect::NotSilent), "P9 a fold from the log's start repeats outputs and dead letters"),
    (
        Planted::Code(Defect::TrimmedLogFolded),
        "P9 journal and the log's start lost, and folded anew all the same",
    ),
    (Planted::HeldLost, "P9 the held set lost on restore"),
    (Planted::Code(Defect::GapUnmatched), "P10 a late gap-expired skips the next gap"),
    (Planted::Code(Defect::GapAppendedOnce), "P10 gap-expired is not appended again"),
    (Planted::Code(Defect::GapEarly), "P10 a fast clock skips early"),
    (Planted::Code(Defect::OtherPipelineObeyed), "P10 another pipeline's gap-expired obeyed"),
    (Planted::Code(Defect::SkipUnmatched), "P10 an operator's skip obeyed for another gap"),
    (Planted::Code(Defect::ParkedSkipped), "P10 a gap that is to be parked is skipped"),
    (Planted::Code(Defect::ParkedExpires), "P10 a parked gap expires again"),
    (Planted::Code(Defect::NotAskedFor), "P10 nobody asks for what is missing"),
    (Planted::ControlInTransaction, "P10 an open transaction holds up every reader"),
    (Planted::Code(Defect::OlderSinkUnchecked), "P11 a sink restored from an older backup"),
    (Planted::Code(Defect::UnreadPassedOver), "P11 records deleted unread are passed over"),
    (
        Planted::Code(Defect::OlderThanSnapshotReleased),
        "P14 what a snapshot is newer than is applied after it",
    ),
    (Planted::Code(Defect::UnnumberedCloses), "P14 a snapshot without a number closes the gap"),
    (Planted::Code(Defect::SnapshotBehindCloses), "P14 a snapshot from behind the gap closes it"),
    (Planted::Code(Defect::SnapshotConflicts), "P14 a webhook behind its snapshot is a conflict"),
    (Planted::Code(Defect::SnapshotBeforeItsVersion), "P14 a snapshot counts under a fold that knew none"),
    (Planted::ReleasedOutOfOrder, "release out of order"),
    (Planted::DeduplicatedBeforeAppend, "deduplication before the append"),
];
