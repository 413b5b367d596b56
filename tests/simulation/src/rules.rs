//! What must hold in every schedule: a violation names the rule and what was seen.

use std::fmt;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// What was acknowledged is in the log.
    Durable,
    /// Each effect is seen once, in its order, with the log's content.
    OnceInOrder,
    /// Every event came to one end, and the books say so.
    Books,
    /// The state in the journal is the fold of the log.
    Fold,
    /// Only what the sink refused alone is dead-lettered as refused.
    Refusals,
    /// The journal can be followed from its start.
    Journal,
    /// The local state at the journal's mark is the journal's.
    Store,
    /// No former owner reaches the sink.
    Owner,
    /// No transaction holds up the event log's readers.
    OpenLog,
    /// What is missing is asked for before it is given up, where the policy says so.
    Asked,
    /// A healed world comes to rest.
    Rest,
    /// What cannot go on stops, and says why.
    Stops,
    /// A partition is not given up where nothing is wrong with what it stands on.
    NoAlarm,
    /// The program does not panic, and each turn ends.
    Sound,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Durable => "a 200 means durable",
            Self::OnceInOrder => "each effect once, in order",
            Self::Books => "each event comes to one counted end",
            Self::Fold => "the state is a fold of the log",
            Self::Refusals => "refused is what the sink refused alone",
            Self::Journal => "the journal can be followed",
            Self::Store => "the local state is the journal's",
            Self::Owner => "no former owner reaches the sink",
            Self::OpenLog => "no transaction holds up the log's readers",
            Self::Asked => "what is missing is asked for before it is given up",
            Self::Rest => "a healed world comes to rest",
            Self::Stops => "what cannot go on stops and says why",
            Self::NoAlarm => "no alarm without a cause",
            Self::Sound => "no panic, no turn without end",
        })
    }
}

/// A rule that does not hold, with what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.rule, self.text)
    }
}
