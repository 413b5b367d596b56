//! Reading id, type, entity and sequence out of a verified webhook, as ingest does it: from the body, and from headers
//! alone.

use ingest::TraceContext;
use ingest::extract::{Plan, extract};
use ingest::signature::Verified;

use super::signature::verified;
use crate::case::{Case, Round};
use crate::webhook;
use crate::workload::Item;

/// Webhooks in a round.
const WEBHOOKS: u64 = 1_000;
const ITEM: Item = Item { entity: 17, sequence: 3 };

/// GitHub's headers say id and type, the body the rest.
const BY_BODY: &str = "verify.github = {}\nentity = '/number'\norder.sequence.at = '/sequence'";
/// Nothing of the body is read. Any header does for an entity.
const BY_HEADERS: &str =
    "verify.github = {}\ntype = 'header:x-github-event'\nentity = 'header:x-github-delivery'";

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, toml: &'static str, bytes| {
        Case::new(format!("extract/{name}/{bytes}_bytes"), WEBHOOKS, move || Extraction::new(toml, bytes))
    };
    vec![case("body", BY_BODY, 500), case("body", BY_BODY, 5_000), case("headers", BY_HEADERS, 500)]
}

struct Extraction {
    plan: Plan,
    webhook: Verified,
    trace: TraceContext,
    entity: String,
    extracted: u64,
}

impl Extraction {
    fn new(toml: &str, bytes: usize) -> Self {
        let (source, webhook) = verified(toml, ITEM, bytes);
        let trace = TraceContext {
            parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00".to_owned(),
            state: None,
        };
        let plan = Plan::new(webhook::SOURCE, &source).unwrap();
        let entity = if toml == BY_BODY { webhook::entity(ITEM) } else { webhook::id(ITEM) };
        Self { plan, webhook, trace, entity, extracted: 0 }
    }
}

impl Round for Extraction {
    fn prepare(&mut self) {
        self.extracted = 0;
    }

    fn run(&mut self) {
        for _ in 0..WEBHOOKS {
            let extracted = extract(&self.plan, &self.webhook, &self.trace).unwrap();
            let [(event, _)] = extracted.events() else { continue };
            self.extracted +=
                u64::from(event.entity.as_ref() == Some(&self.entity) && event.problem.is_none());
        }
    }

    fn check(&mut self) {
        assert_eq!(self.extracted, WEBHOOKS, "so many webhooks are read");
    }
}
