//! What was asked of the API, counted; and the faults that it still has to show.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::resource::Resource;
use super::scenario::{Endpoint, Fault, FaultKind};

/// Requests of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    /// Of pages of lists.
    pub lists: u64,
    /// Of single records.
    pub ones: u64,
    /// Of all else.
    pub others: u64,
    /// Pages by list.
    pub lists_of: BTreeMap<Resource, u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Faults that were shown, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    List(Resource),
    One(Resource),
    Other,
}

impl Asked {
    pub(crate) fn resource(self) -> Option<Resource> {
        match self {
            Self::List(resource) | Self::One(resource) => Some(resource),
            Self::Other => None,
        }
    }

    fn endpoint(self) -> Option<Endpoint> {
        match self {
            Self::List(_) => Some(Endpoint::Pages),
            Self::One(_) => Some(Endpoint::One),
            Self::Other => None,
        }
    }
}

/// A fault that is in force for one connection.
#[derive(Clone, Debug)]
struct Active {
    kind: FaultKind,
    connection: String,
    resource: Option<Resource>,
    on: Option<Endpoint>,
    left: u32,
    wait: Duration,
}

/// The counts and the faults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    counts: BTreeMap<String, RequestCounts>,
    faults: Vec<Active>,
}

impl Requests {
    pub(crate) fn new(connections: &[String]) -> Self {
        let counts = connections.iter().map(|id| (id.clone(), RequestCounts::default())).collect();
        Self { counts, faults: Vec::new() }
    }

    pub(crate) fn counts(&self) -> &BTreeMap<String, RequestCounts> {
        &self.counts
    }

    /// Counts a request; `connection` is empty where the token is nobody's.
    pub(crate) fn count(&mut self, connection: &str, asked: Asked, status: u16) {
        let counts = self.counts.entry(connection.to_owned()).or_default();
        *counts.statuses.entry(status).or_default() += 1;
        match asked {
            Asked::List(resource) => {
                counts.lists += 1;
                *counts.lists_of.entry(resource).or_default() += 1;
            }
            Asked::One(_) => counts.ones += 1,
            Asked::Other => counts.others += 1,
        }
    }

    /// From now on, this fault is shown to each connection that it is for.
    pub(crate) fn add(&mut self, fault: &Fault) {
        let connections = self.counts.keys().filter(|id| !id.is_empty()).cloned().collect::<Vec<_>>();
        for connection in connections {
            if fault.connection.as_ref().is_none_or(|only| *only == connection) {
                self.faults.push(Active {
                    kind: fault.kind,
                    connection,
                    resource: fault.resource,
                    on: fault.on,
                    left: fault.requests,
                    wait: fault.wait,
                });
            }
        }
    }

    /// Takes the first fault that a request can be shown, and counts it.
    pub(crate) fn take(
        &mut self,
        connection: &str,
        asked: Asked,
        can: impl Fn(FaultKind) -> bool,
    ) -> Option<(FaultKind, Duration)> {
        let fits = |fault: &Active| {
            fault.connection == connection
                && can(fault.kind)
                && fault.resource.is_none_or(|only| asked.resource() == Some(only))
                && fault.on.is_none_or(|only| asked.endpoint() == Some(only))
        };
        let place = self.faults.iter().position(fits)?;
        let fault = self.faults.get_mut(place)?;
        fault.left -= 1;
        let taken = (fault.kind, fault.wait);
        if fault.left == 0 {
            self.faults.remove(place);
        }
        let counts = self.counts.entry(connection.to_owned()).or_default();
        *counts.faults.entry(taken.0).or_default() += 1;
        Some(taken)
    }
}
