//! The names of all metrics, with their meaning.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};

/// Events by verdict, from checkpoints; labels `pipeline`, `partition`, `verdict`.
pub const EVENTS: &str = "hookline_processor_events_total";
/// Control records, from checkpoints; labels `pipeline`, `partition`.
pub const CONTROLS: &str = "hookline_processor_control_records_total";
/// Events that wait for a gap; labels `pipeline`, `partition`.
pub const HELD: &str = "hookline_processor_held_events";
/// Gaps that are open; labels `pipeline`, `partition`.
pub const GAPS: &str = "hookline_processor_open_gaps";
/// Open gaps that do not expire; labels `pipeline`, `partition`.
pub const PARKED: &str = "hookline_processor_parked_entities";
/// Applied events that polling found: webhooks that were missed. Counted at checkpoints since the process started;
/// labels `pipeline`, `partition`.
pub const SNAPSHOTS_APPLIED: &str = "hookline_processor_snapshots_applied_total";
/// Wishes that the poller look for what is missing.
pub const BACKFILLS: &str = "hookline_processor_backfill_requests_total";
/// Records of the log beyond the last checkpoint; labels `pipeline`, `partition`.
pub const LAG_RECORDS: &str = "hookline_processor_lag_records";
/// How far the last checkpoint is behind the wall clock, in the log's time; 0 without lag.
pub const LAG_SECONDS: &str = "hookline_processor_lag_seconds";
/// How long a checkpoint took.
pub const CHECKPOINT_SECONDS: &str = "hookline_processor_checkpoint_seconds";
/// How long a batch took in the sink.
pub const DELIVER_SECONDS: &str = "hookline_processor_deliver_seconds";
/// How long a claim with its restore took.
pub const CLAIM_SECONDS: &str = "hookline_processor_claim_seconds";
/// Times a lane had to start again from its last checkpoint; label `reason`: one of [`RECOVERY_REASONS`].
pub const RECOVERIES: &str = "hookline_processor_recoveries_total";
/// Why a lane had to start again.
pub const RECOVERY_REASONS: [&str; 7] = ["kafka", "fenced", "sink", "store", "rebalance", "refused", "stuck"];
/// Effects that the sink refused for good.
pub const REFUSALS: &str = "hookline_processor_refusals_total";
/// Partitions that this instance owns; label `pipeline`.
pub const OWNED: &str = "hookline_processor_owned_partitions";
/// Ids remembered; labels `pipeline`, `partition`.
pub const IDS: &str = "hookline_processor_remembered_ids";
/// Of the ids remembered, those on the disk only; labels `pipeline`, `partition`.
pub const IDS_SPILLED: &str = "hookline_processor_spilled_ids";
/// Entities remembered; labels `pipeline`, `partition`.
pub const ENTITIES: &str = "hookline_processor_remembered_entities";
/// Times the local state was wiped since it was damaged or another log's.
pub const STORE_WIPED: &str = "hookline_processor_store_wiped_total";

/// Connections by status; labels `source`, `status`. Only of the partitions that this instance owns.
pub const CONNECTIONS: &str = "hookline_connections";
/// Times that a status began; labels `source`, `status`.
pub const CONNECTION_CHANGES: &str = "hookline_connection_changes_total";
/// 1 for the status that a connection has; labels `source`, `connection`, `status`. Only where it is configured.
pub const CONNECTION_STATUS: &str = "hookline_connection_status";

/// Connections that would have a [`CONNECTION_STATUS`] and do not, since there are too many. Only where it is configured.
pub const CONNECTIONS_WITHOUT_SERIES: &str = "hookline_connections_without_series";

/// Alerts by what became of them; labels `channel`, `outcome`.
pub const ALERTS: &str = "hookline_alerts_total";
/// Alerts that are being sent, or tried again.
pub const ALERTS_UNDER_WAY: &str = "hookline_alerts_under_way";

/// Snapshots written.
pub const SNAPSHOTS: &str = "hookline_processor_snapshots_total";

/// Tells the exporter what each metric means, and starts at 0 what is counted rarely: the first increase of a
/// counter that was not there before is none to Prometheus.
pub fn describe() {
    for reason in RECOVERY_REASONS {
        counter!(RECOVERIES, "reason" => reason).increment(0);
    }
    counter!(REFUSALS).increment(0);
    counter!(STORE_WIPED).increment(0);
    counter!(SNAPSHOTS).increment(0);
    counter!(BACKFILLS).increment(0);
    describe_counter!(EVENTS, "Events by verdict, as of the last checkpoint");
    describe_counter!(CONTROLS, "Control records, as of the last checkpoint");
    describe_gauge!(HELD, "Events that wait for a gap in their entity's sequence to close");
    describe_gauge!(GAPS, "Open gaps in entities' sequences");
    describe_gauge!(PARKED, "Entities that stand still until their gap is closed or skipped by an operator");
    describe_counter!(
        SNAPSHOTS_APPLIED,
        "Events that polling found and that were applied, as of the last checkpoint: webhooks that were missed"
    );
    describe_counter!(BACKFILLS, "Wishes that the poller look for an entity whose event is missing");
    describe_gauge!(LAG_RECORDS, "Records of the event log beyond the last checkpoint");
    describe_gauge!(
        LAG_SECONDS,
        Unit::Seconds,
        "Age of the last checkpoint in the log's time, 0 without lag"
    );
    describe_histogram!(CHECKPOINT_SECONDS, Unit::Seconds, "Duration of a checkpoint");
    describe_histogram!(DELIVER_SECONDS, Unit::Seconds, "Duration of a batch in the sink");
    describe_histogram!(CLAIM_SECONDS, Unit::Seconds, "Duration of a claim, with the restore");
    describe_counter!(RECOVERIES, "Times a lane started again from its last checkpoint");
    describe_counter!(REFUSALS, "Effects that the sink refused for good");
    describe_gauge!(OWNED, "Partitions that this instance owns");
    describe_gauge!(IDS, "Event ids remembered within the window");
    describe_gauge!(IDS_SPILLED, "Of these, those that are on the disk only");
    describe_gauge!(ENTITIES, "Entities remembered");
    describe_gauge!(CONNECTIONS, "Connections by status, in the partitions that this instance owns");
    describe_counter!(CONNECTION_CHANGES, "Times that a connection's status began");
    describe_counter!(ALERTS, "Alerts by channel and by what became of them");
    describe_gauge!(ALERTS_UNDER_WAY, "Alerts that are being sent, or tried again");
    describe_gauge!(CONNECTION_STATUS, "1 for the status that a connection has");
    describe_gauge!(
        CONNECTIONS_WITHOUT_SERIES,
        "Connections that have no metrics of their own, since more than 10000 would have them"
    );
    describe_counter!(
        SNAPSHOTS,
        "Snapshots of a partition's state written, each a reason to trim its journal"
    );
    describe_counter!(STORE_WIPED, "Times the local state was wiped and restored from the journal");
}
