//! Stories: what happens to one entity, told forwards. Each step writes down its own outcome, so that what is
//! expected is known without folding anything.
//!
//! A story never depends on another one. Within a story the order of the steps is the order of sending.

use crate::bodies;
use crate::delivery::{AppliedEvent, Delivery, EntityPlan, Expect, Gap, Verdict};
use crate::rng::Rng;
use crate::sign::Signer;
use crate::sources::{CONNECTIONS, Connection, FORGED_SECRET, GITHUB, GITHUB_SECRET, MAKINI, TOLERANCE_S};

/// The deliveries that concern one entity, and how the entity must be afterwards.
pub(crate) struct Story {
    /// The entity; `None` for deliveries that concern none.
    pub(crate) entity: Option<EntityPlan>,
    /// The main part, in order. The flag says that a gap is open after the step: what follows is urgent.
    pub(crate) steps: Vec<(Delivery, bool)>,
    /// At the end of phase 0, in order.
    pub(crate) end: Vec<Delivery>,
    /// Phase 1, in order.
    pub(crate) after: Vec<Delivery>,
}

impl Story {
    fn of(entity: Option<EntityPlan>) -> Self {
        Self { entity, steps: Vec::new(), end: Vec::new(), after: Vec::new() }
    }

    /// A story of deliveries that concern no entity, in one lane.
    pub(crate) fn loose(deliveries: Vec<Delivery>) -> Self {
        let mut story = Self::of(None);
        let lane = deliveries.first().map_or(0, |first| lane(&[&first.path], &first.body));
        story.steps = deliveries.into_iter().map(|delivery| (Delivery { lane, ..delivery }, false)).collect();
        story
    }

    /// How many deliveries there are.
    pub(crate) fn len(&self) -> usize {
        self.steps.len() + self.end.len() + self.after.len()
    }

    fn applies(&mut self, event_id: &str, sequence: Option<String>, body: &[u8]) {
        if let Some(entity) = &mut self.entity {
            entity.applied.push(AppliedEvent {
                event_id: event_id.to_owned(),
                sequence,
                body: body.to_vec(),
            });
        }
    }
}

/// Counts that run through all stories: event ids and gaps. The seed is part of an id, so that two plans into one
/// log are two systems' events.
pub(crate) struct Ids {
    seed: u64,
    /// By connection: two customers' systems count for themselves, so that the same ids come from both.
    events: [u32; CONNECTIONS.len()],
    gaps: u32,
}

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, events: [0; CONNECTIONS.len()], gaps: 0 }
    }

    fn event(&mut self, connection: Connection) -> String {
        let n = CONNECTIONS.iter().position(|c| c.id == connection.id).unwrap_or(0);
        self.events[n] += 1;
        format!("evt_{}_{:08}", self.seed, self.events[n])
    }
}

/// Ways to send what must be refused with 401.
pub(crate) const FORGERIES: [&str; 5] =
    ["wrong secret", "another customer's secret", "unsigned", "altered on the way", "signed too long ago"];

fn forge(how: &str, connection: Connection, signed: &[u8]) -> Signer {
    let secret = connection.secret.value;
    match how {
        "another customer's secret" => {
            let other = CONNECTIONS.iter().find(|c| c.id != connection.id).unwrap_or(&connection);
            Signer::Makini { secret: other.secret.value, age_s: 0 }
        }
        "unsigned" => Signer::Unsigned,
        "altered on the way" => {
            Signer::Altered { signer: Box::new(Signer::Makini { secret, age_s: 0 }), signed: signed.to_vec() }
        }
        "signed too long ago" => Signer::Makini { secret, age_s: TOLERANCE_S * 2 },
        _ => Signer::Makini { secret: FORGED_SECRET, age_s: 0 },
    }
}

/// A lane for all that has the same key parts and body: a hash (FNV-1a).
fn lane(parts: &[&str], body: &[u8]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0])).chain(body.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A delivery to a connection of [`MAKINI`], well signed.
pub(crate) fn makini(connection: Connection, body: Vec<u8>, expect: Expect, what: &'static str) -> Delivery {
    Delivery {
        phase: 0,
        lane: 0,
        path: format!("/webhooks/{MAKINI}/{}", connection.id),
        headers: vec![("content-type", "application/json".to_owned())],
        signer: Signer::Makini { secret: connection.secret.value, age_s: 0 },
        body,
        expect,
        gap: None,
        what,
    }
}

/// A delivery to [`GITHUB`], well signed.
pub(crate) fn github(guid: &str, event: &str, body: Vec<u8>, expect: Expect, what: &'static str) -> Delivery {
    Delivery {
        phase: 0,
        lane: 0,
        path: format!("/webhooks/{GITHUB}"),
        headers: vec![
            ("content-type", "application/json".to_owned()),
            ("user-agent", "GitHub-Hookshot/sandbox".to_owned()),
            ("X-GitHub-Delivery", guid.to_owned()),
            ("X-GitHub-Event", event.to_owned()),
        ],
        signer: Signer::Github { secret: GITHUB_SECRET.value },
        body,
        expect,
        gap: None,
        what,
    }
}

/// The story of one purchase order, whose events are numbered without gaps.
pub(crate) struct Order<'a> {
    rng: &'a mut Rng,
    ids: &'a mut Ids,
    connection: Connection,
    number: &'a str,
    /// The next number that has not been given out.
    next: u64,
    lane: u64,
    /// Events that Hookline has seen: what a repeat is a repeat of.
    seen: Vec<(String, Vec<u8>)>,
    story: Story,
}

impl<'a> Order<'a> {
    pub(crate) fn new(rng: &'a mut Rng, ids: &'a mut Ids, connection: Connection, number: &'a str) -> Self {
        let entity = EntityPlan {
            source: MAKINI,
            connection: connection.id,
            entity: format!("purchase-order-{number}"),
            applied: Vec::new(),
        };
        let lane = lane(&[MAKINI, connection.id, number], b"");
        Self { rng, ids, connection, number, next: 1, lane, seen: Vec::new(), story: Story::of(Some(entity)) }
    }

    pub(crate) fn end(self) -> Story {
        self.story
    }

    pub(crate) fn len(&self) -> usize {
        self.story.len()
    }

    /// An order's whole life in about `steps` deliveries, with whatever may happen to it.
    pub(crate) fn ramble(mut self, steps: usize) -> Story {
        while self.len() < steps {
            match self.rng.below(100) {
                0..=54 => self.in_turn(),
                55..=69 => {
                    let count = 2 + self.rng.below(3);
                    self.out_of_turn(count);
                }
                70..=80 => self.repeat(),
                81..=83 => self.repeat_rewritten(),
                84..=87 => self.repeat_at_the_end(),
                88..=92 => self.behind(),
                93..=94 => self.taken_number(),
                95 => {
                    let sequence = self.rng.pick(&["\"abc\"", "-3", "1.5", "{}", "9223372036854775808"]);
                    self.bad_sequence(sequence);
                }
                _ => {
                    let how = self.rng.pick(&FORGERIES);
                    self.forged(how);
                }
            }
        }
        self.end()
    }

    /// The next event, in its turn.
    pub(crate) fn in_turn(&mut self) {
        let (id, body) = self.draw();
        self.send(&id, body, Expect::Accepted(Verdict::Applied), "in its turn");
    }

    /// The next `count` events (2 or more), shuffled so that the first is ahead of its turn. Repeats of those
    /// that wait are thrown in.
    pub(crate) fn out_of_turn(&mut self, count: usize) {
        let mut events: Vec<_> = (0..count).map(|n| (n, self.draw())).collect();
        self.rng.shuffle(&mut events);
        if events.first().is_some_and(|(n, _)| *n == 0) {
            events.rotate_left(1);
        }
        let mut came = vec![false; count];
        let first_step = self.story.steps.len();
        for (n, (id, body)) in events {
            came[n] = true;
            if came[..n].contains(&false) {
                self.send(&id, body.clone(), Expect::Waits, "ahead of its turn");
                if self.rng.chance(20) {
                    self.send(&id, body, Expect::Accepted(Verdict::Duplicate), "repeat of one that waits");
                }
            } else {
                self.send(&id, body, Expect::Accepted(Verdict::Applied), "closes a gap");
            }
        }
        self.ids.gaps += 1;
        let gap = self.ids.gaps;
        let [(first, urgent), .., (last, _)] = &mut self.story.steps[first_step..] else { return };
        (first.gap, *urgent) = (Some(Gap::Opens(gap)), true);
        last.gap = Some(Gap::Closes(gap));
        let end = self.story.steps.len() - 1;
        self.story.steps[first_step..end].iter_mut().for_each(|(_, urgent)| *urgent = true);
    }

    /// One event again, byte for byte.
    pub(crate) fn repeat(&mut self) {
        let Some((id, body)) = self.any_seen() else { return self.in_turn() };
        self.send(&id, body, Expect::Accepted(Verdict::Duplicate), "exact repeat");
    }

    /// One event again with the same id in other bytes.
    pub(crate) fn repeat_rewritten(&mut self) {
        let Some((id, body)) = self.any_seen() else { return self.in_turn() };
        let body = bodies::rewritten(&body);
        self.send(&id, body, Expect::Accepted(Verdict::Duplicate), "repeat in other bytes");
    }

    /// One event again, after everything else.
    pub(crate) fn repeat_at_the_end(&mut self) {
        let Some((_, body)) = self.any_seen() else { return self.in_turn() };
        let what = "repeat sent much later";
        let delivery = self.delivery(body, Expect::Accepted(Verdict::Duplicate), what);
        self.story.end.push(delivery);
    }

    /// A new event under a number whose turn has passed.
    pub(crate) fn behind(&mut self) {
        if self.next < 3 {
            return self.in_turn();
        }
        let number = 1 + self.rng.below(usize::try_from(self.next - 2).unwrap_or(1));
        let (id, body) = self.write(&number.to_string());
        self.send(&id, body, Expect::Accepted(Verdict::Stale), "behind its turn");
    }

    /// A new event under the number of the one applied last: one of the two is wrong.
    pub(crate) fn taken_number(&mut self) {
        if self.next == 1 {
            return self.in_turn();
        }
        let (id, body) = self.write(&(self.next - 1).to_string());
        self.send(&id, body, Expect::Accepted(Verdict::DeadLettered), "number taken by another event");
    }

    /// An event whose number is none.
    pub(crate) fn bad_sequence(&mut self, sequence: &str) {
        let (id, body) = self.write(sequence);
        self.send(&id, body, Expect::Accepted(Verdict::DeadLettered), "number that is none");
    }

    /// The next event, and before it an attacker's version of it under the same id: were it let in, it would
    /// take the true one's place.
    pub(crate) fn forged(&mut self, how: &'static str) {
        let sequence = self.next.to_string();
        let (id, body) = self.draw();
        let forgery =
            bodies::purchase_order(self.rng, &id, "updated", self.connection.id, self.number, &sequence);
        let signer = forge(how, self.connection, &body);
        let delivery = self.delivery(forgery, Expect::Refused(401), how);
        self.story.steps.push((Delivery { signer, ..delivery }, false));
        self.send(&id, body, Expect::Accepted(Verdict::Applied), "in its turn, after a forgery");
    }

    /// A gap that never closes, with `waiting` events behind it; another event tries to take the number of the
    /// first that waits. Once the gap is given up, the missing number comes too late, a repeat comes, and the
    /// order goes on.
    pub(crate) fn never_closes(&mut self, waiting: usize) {
        let missing = self.next.to_string();
        self.next += 1;
        for n in 0..waiting {
            let sequence = self.next.to_string();
            let (id, body) = self.draw();
            self.send(&id, body, Expect::Waits, "behind a gap that never closes");
            if n == 0 {
                let (id, body) = self.write(&sequence);
                let expect = Expect::Accepted(Verdict::DeadLettered);
                self.send(&id, body, expect, "number taken by an event that waits");
            }
        }
        let repeat = self.any_seen();
        let (_, late) = self.write(&missing);
        let (_, next) = self.draw();
        let mut after = vec![
            self.delivery(late.clone(), Expect::Accepted(Verdict::Stale), "missing number, too late"),
            self.delivery(next, Expect::Accepted(Verdict::Applied), "in its turn, after the gap"),
            self.delivery(late, Expect::Accepted(Verdict::Duplicate), "repeat of the one too late"),
        ];
        if let Some((_, body)) = repeat {
            after.push(self.delivery(body, Expect::Accepted(Verdict::Duplicate), "repeat after the gap"));
        }
        self.story.after.extend(after.into_iter().map(|delivery| Delivery { phase: 1, ..delivery }));
    }

    /// The event with the next number. It will be applied after all that were drawn before.
    fn draw(&mut self) -> (String, Vec<u8>) {
        let sequence = self.next.to_string();
        self.next += 1;
        let (id, body) = self.write(&sequence);
        self.story.applies(&id, Some(sequence), &body);
        (id, body)
    }

    fn write(&mut self, sequence: &str) -> (String, Vec<u8>) {
        let id = self.ids.event(self.connection);
        let kind = match sequence {
            "1" => "created",
            _ if self.rng.chance(15) => "closed",
            _ => "updated",
        };
        let body = bodies::purchase_order(self.rng, &id, kind, self.connection.id, self.number, sequence);
        (id, body)
    }

    fn any_seen(&mut self) -> Option<(String, Vec<u8>)> {
        if self.seen.is_empty() { None } else { Some(self.rng.pick(&self.seen).clone()) }
    }

    fn send(&mut self, id: &str, body: Vec<u8>, expect: Expect, what: &'static str) {
        self.seen.push((id.to_owned(), body.clone()));
        let delivery = self.delivery(body, expect, what);
        self.story.steps.push((delivery, false));
    }

    fn delivery(&self, body: Vec<u8>, expect: Expect, what: &'static str) -> Delivery {
        Delivery { lane: self.lane, ..makini(self.connection, body, expect, what) }
    }
}

/// The story of one connection, in exactly `count` deliveries: its newest event wins.
pub(crate) fn connection(rng: &mut Rng, ids: &mut Ids, connection: Connection, count: usize) -> Story {
    let mut story = Story::of(Some(EntityPlan {
        source: MAKINI,
        connection: connection.id,
        entity: format!("connection-{}", connection.id),
        applied: Vec::new(),
    }));
    let lane = lane(&[MAKINI, "connection", connection.id], b"");
    let mut newest_ms = bodies::at_ms(0);
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for n in 0..count {
        let id = ids.event(connection);
        let kind = rng.pick(&["online", "offline", "reauthorization_needed"]);
        let pause_ms = i64::try_from(1 + rng.below(3_600_000)).unwrap_or(1);
        // Written in another zone, an older time may well be the greater text.
        let write = |rng: &mut Rng, ms: i64| match rng.below(3) {
            0 => bodies::rfc3339_at_offset(ms, 9),
            1 => bodies::rfc3339_at_offset(ms, -5),
            _ => bodies::rfc3339(ms),
        };
        let (body, verdict, what) = match if n == 0 { 0 } else { rng.below(10) } {
            0..=5 => {
                newest_ms += pause_ms;
                let time = write(rng, newest_ms);
                let body = bodies::connection_event(&id, kind, connection.id, &time);
                story.applies(&id, Some(time), &body);
                (body, Verdict::Applied, "newer version")
            }
            6 | 7 => {
                let time = write(rng, newest_ms - pause_ms);
                (bodies::connection_event(&id, kind, connection.id, &time), Verdict::Stale, "older version")
            }
            8 => {
                let time = write(rng, newest_ms);
                (
                    bodies::connection_event(&id, kind, connection.id, &time),
                    Verdict::Stale,
                    "same version again",
                )
            }
            _ => (rng.pick(&seen).clone(), Verdict::Duplicate, "exact repeat"),
        };
        seen.push(body.clone());
        let delivery = makini(connection, body, Expect::Accepted(verdict), what);
        story.steps.push((Delivery { lane, ..delivery }, false));
    }
    story
}

/// The story of one repository, in exactly `count` deliveries: its events have no number, they are applied as
/// they come.
pub(crate) fn repository(rng: &mut Rng, name: &str, count: usize) -> Story {
    let mut story = Story::of(Some(EntityPlan {
        source: GITHUB,
        connection: "",
        entity: name.to_owned(),
        applied: Vec::new(),
    }));
    let lane = lane(&[GITHUB, name], b"");
    let mut seen: Vec<(String, &'static str, Vec<u8>)> = Vec::new();
    for n in 0..count {
        let guid = bodies::guid(rng);
        let (event, body) = bodies::repository_event(rng, name);
        let mut delivery = match if n == 0 { 0 } else { rng.below(20) } {
            0..=16 => {
                story.applies(&guid, None, &body);
                seen.push((guid.clone(), event, body.clone()));
                github(&guid, event, body, Expect::Accepted(Verdict::Applied), "as it comes")
            }
            17 | 18 => {
                let (guid, event, body) = rng.pick(&seen).clone();
                github(&guid, event, body, Expect::Accepted(Verdict::Duplicate), "redelivered")
            }
            _ => {
                let delivery = github(&guid, event, body, Expect::Refused(401), "wrong secret");
                let signer =
                    if rng.chance(50) { Signer::Github { secret: FORGED_SECRET } } else { Signer::Unsigned };
                Delivery { signer, ..delivery }
            }
        };
        delivery.lane = lane;
        story.steps.push((delivery, false));
    }
    story
}
