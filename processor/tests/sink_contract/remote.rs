//! The promises of every sink whose database is a server: what the network does to it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use processor::fold::Effect;
use processor::sink::{self, Context, SinkError};
use shared::config::SinkConfig;

use super::{Owner, Place, context, epoch, halted, ids, retried, simple};

macro_rules! promises {
    ($place:expr) => {
        $crate::sink_contract::tests_of! { remote, $place;
            a_cut_at_any_step_neither_loses_nor_doubles
            a_server_that_is_away_is_tried_again_until_it_is_back
            a_server_that_hangs_is_given_up_and_tried_again
            an_unreachable_server_is_tried_again
            wrong_credentials_halt_and_are_not_repeated
        }
    };
}
pub(crate) use promises;

/// A database on a server.
pub(crate) trait Remote: Place {
    fn address(&self) -> SocketAddr;
    /// The database by way of another host and port; a statement, or an answer, may take a second.
    fn config_at(&self, host: &str, port: u16) -> SinkConfig;
    /// Users and passwords that the server does not let in; all have `hunter2` in them.
    fn wrong_credentials(&self) -> Vec<SinkConfig>;
}

/// The same database by way of a proxy.
struct Via<'a, P> {
    place: &'a P,
    proxy: &'a Proxy,
}

impl<P: Remote> Via<'_, P> {
    fn claim(&self, claim: i64) -> Owner {
        self.claim_with(&context(), claim)
    }

    fn claim_with(&self, context: &Context, claim: i64) -> Owner {
        let config = self.place.config_at("127.0.0.1", self.proxy.port);
        let mut sink = sink::open(&config, context).unwrap().unwrap();
        let fence = sink.claim(0, epoch(claim)).unwrap();
        Owner { sink, partition: 0, fence }
    }
}

/// The connection is cut before or after each thing that the client says, one after the other: while it
/// delivers, and while it claims again.
pub(crate) fn a_cut_at_any_step_neither_loses_nor_doubles(place: &impl Remote) {
    cut_at_any_step(
        place,
        &context(),
        |n| [simple(n), simple(n + 1), simple(n + 2)],
        |applied| {
            assert_eq!(place.entities()[0].id, format!("e{}", applied - 1));
        },
    );
}

/// Delivers batches of three, the first with its first offset, and cuts; `check` is told how many are applied.
pub(crate) fn cut_at_any_step(
    place: &impl Remote,
    context: &Context,
    batch: impl Fn(i64) -> [Effect; 3],
    check: impl Fn(i64),
) {
    let proxy = Proxy::start(place.address());
    let mut owner = Via { place, proxy: &proxy }.claim_with(context, 1);
    let (mut applied, mut claims, mut cuts) = (0_i64, 1, 0);
    for forwards in [false, true] {
        for step in 0.. {
            assert!(step < 200, "there is no end to the steps");
            let effects = batch(applied);
            applied += 3;
            proxy.set(Mode::Cut { after: step, forwards });
            let delivered = owner.deliver(&effects);
            let was_cut = proxy.has_cut();
            if !was_cut {
                delivered.unwrap();
                break;
            }
            cuts += 1;
            // A client may have tried again by itself.
            if delivered.is_err() {
                retried(delivered);
            }
            // The claim that follows is cut as well, at the same step if it has so many.
            claims += 1;
            proxy.set(Mode::Cut { after: step, forwards });
            let claimed = owner.sink.claim(0, epoch(claims));
            if claimed.is_err() {
                retried(claimed);
            }
            proxy.set(Mode::Pass);
            claims += 1;
            owner.fence = owner.sink.claim(0, epoch(claims)).unwrap();
            let beyond: Vec<_> =
                effects.iter().filter(|effect| effect.position > owner.fence.position).cloned().collect();
            owner.deliver(&beyond).unwrap();
            let expected: Vec<_> = (0..applied).map(|n| format!("e{n}")).collect();
            assert_eq!(ids(place), expected, "cut at step {step}, forwards: {forwards}");
            check(applied);
        }
    }
    assert!(cuts >= 4, "only {cuts} cuts");
}

pub(crate) fn a_server_that_is_away_is_tried_again_until_it_is_back(place: &impl Remote) {
    let proxy = Proxy::start(place.address());
    let mut owner = Via { place, proxy: &proxy }.claim(1);
    owner.deliver(&[simple(1)]).unwrap();
    proxy.set(Mode::Away);
    retried(owner.deliver(&[simple(2)]));
    retried(owner.sink.claim(0, epoch(2)));
    retried(owner.sink.fence(0));
    proxy.set(Mode::Pass);
    owner.fence = owner.sink.claim(0, epoch(3)).unwrap();
    assert_eq!(owner.fence.position, simple(1).position);
    owner.deliver(&[simple(2)]).unwrap();
    assert_eq!(ids(place), ["e1", "e2"]);
}

pub(crate) fn a_server_that_hangs_is_given_up_and_tried_again(place: &impl Remote) {
    let proxy = Proxy::start(place.address());
    let mut owner = Via { place, proxy: &proxy }.claim(1);
    proxy.set(Mode::Hang);
    retried(owner.deliver(&[simple(1)]));
    proxy.set(Mode::Pass);
    owner.fence = owner.sink.claim(0, epoch(2)).unwrap();
    owner.deliver(&[simple(1)]).unwrap();
    assert_eq!(ids(place), ["e1"]);
}

pub(crate) fn an_unreachable_server_is_tried_again(place: &impl Remote) {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (host, port) in [("127.0.0.1", closed.port()), ("no-such-host.invalid", 1)] {
        let opened = sink::open(&place.config_at(host, port), &context());
        assert!(retried(opened).contains(host));
    }
}

pub(crate) fn wrong_credentials_halt_and_are_not_repeated(place: &impl Remote) {
    let all = place.wrong_credentials();
    assert!(!all.is_empty());
    for config in all {
        let message = halted(sink::open(&config, &context()));
        assert!(!message.contains("hunter2"), "{message}");
    }
}

/// For a sink in which nothing waits for a former owner: that stops at each step of its delivery, its successor
/// claims and goes on, and then the former owner does the rest. `steps_min`: so often, a delivery says something.
pub(crate) fn a_former_owner_that_was_held_up_anywhere_changes_nothing(place: &impl Remote, steps_min: u32) {
    held_up_anywhere(place, &context(), steps_min, simple, |applied| {
        assert_eq!(place.entities()[0].id, format!("e{}", applied - 1));
    });
}

/// Delivers events in threes, two of them by both owners; `check` is told how many are applied.
pub(crate) fn held_up_anywhere(
    place: &impl Remote,
    context: &Context,
    steps_min: u32,
    event: impl Fn(i64) -> Effect,
    check: impl Fn(i64),
) {
    let proxy = Proxy::start(place.address());
    let mut old = Via { place, proxy: &proxy }.claim_with(context, 1);
    let (mut applied, mut claims, mut held) = (0_i64, 1, 0);
    for after in 0.. {
        assert!(after < 100, "there is no end to the steps");
        let effects = [event(applied), event(applied + 1)];
        let (outcome, was_held) = proxy.hold(
            after,
            || old.deliver(&effects),
            || {
                claims += 1;
                let mut new = Owner::claim_with(place, context, 0, epoch(claims));
                new.deliver(&effects).unwrap();
                new.deliver(&[event(applied + 2)]).unwrap();
            },
        );
        if !was_held {
            outcome.unwrap();
            break;
        }
        // Held up for too long, it has given up before.
        let is_stopped = matches!(outcome, Err(SinkError::Fenced { .. } | SinkError::Retry(_)));
        assert!(is_stopped, "held after {after}: {outcome:?}");
        held += 1;
        applied += 3;
        let expected: Vec<_> = (0..applied).map(|n| format!("e{n}")).collect();
        assert_eq!(ids(place), expected, "held after {after}");
        check(applied);
        claims += 1;
        old.fence = old.sink.claim(0, epoch(claims)).unwrap();
    }
    assert!(held >= steps_min, "only {held} steps");
}

/// One partition's delivery stops at each of its steps, another partition's is done, and then the rest of the first.
/// What is tried again, as a lane does it, is delivered again. `check` is told the step.
///
/// Returns the messages of what was tried again.
pub(crate) fn beside_another_partition_anywhere(
    place: &impl Remote,
    steps_min: i64,
    mine: impl Fn(i64) -> Effect,
    others: impl Fn(i64) -> Effect,
    check: impl Fn(i64),
) -> Vec<String> {
    let proxy = Proxy::start(place.address());
    let mut owner = Via { place, proxy: &proxy }.claim(1);
    let mut other = Owner::claim(place, 1, epoch(1));
    let mut messages = Vec::new();
    for step in 0.. {
        assert!(step < 100, "there is no end to the steps");
        let effects = [mine(step)];
        let (outcome, was_held) = proxy.hold(
            step.try_into().unwrap(),
            || owner.deliver(&effects),
            || other.deliver(&[others(step)]).unwrap(),
        );
        if !was_held {
            outcome.unwrap();
            assert!(step >= steps_min, "only {step} steps");
            break;
        }
        if outcome.is_err() {
            messages.push(retried(outcome));
            owner.fence = owner.sink.claim(0, epoch(step + 2)).unwrap();
            assert!(owner.fence.position < mine(step).position, "tried again, and applied");
            owner.deliver(&effects).unwrap();
        }
        check(step);
    }
    messages
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Pass,
    /// Nothing goes through any more; the connections stay open.
    Hang,
    /// Connections end, and others are not accepted.
    Away,
    /// After so many things that the client says, what it says next waits until there is another mode.
    Hold {
        after: u32,
    },
    /// After so many things that the client says, its connection ends: before the next one is forwarded, or
    /// after that. Then as `Pass`.
    Cut {
        after: u32,
        forwards: bool,
    },
}

struct State {
    mode: Mode,
    /// There was something to cut or to hold.
    has_cut: bool,
    /// Both sides of each connection.
    sockets: Vec<TcpStream>,
}

/// Stands between the sink and the server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    pub(crate) fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { mode: Mode::Pass, has_cut: false, sockets: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if matches!(lock(&shared).mode, Mode::Away) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                let clone = |socket: &TcpStream| socket.try_clone().unwrap();
                lock(&shared).sockets.extend([clone(&client), clone(&server)]);
                let (from, to) = (clone(&client), clone(&server));
                let state = Arc::clone(&shared);
                thread::spawn(move || forward(from, to, &state, true));
                let state = Arc::clone(&shared);
                thread::spawn(move || forward(server, client, &state, false));
            }
        });
        Self { port, state }
    }

    fn set(&self, mode: Mode) {
        let mut state = lock(&self.state);
        state.mode = mode;
        state.has_cut = false;
        if matches!(mode, Mode::Away) {
            state.sockets.drain(..).for_each(|socket| drop(socket.shutdown(Shutdown::Both)));
        }
    }

    /// Runs a delivery that is held after so many things that the client says, until `meanwhile` is done. Its outcome,
    /// and whether there was something to hold.
    fn hold<T: Send>(
        &self,
        after: u32,
        delivery: impl FnOnce() -> T + Send,
        meanwhile: impl FnOnce(),
    ) -> (T, bool) {
        self.set(Mode::Hold { after });
        thread::scope(|scope| {
            let delivery = scope.spawn(delivery);
            let until = Instant::now() + Duration::from_secs(20);
            while !self.has_cut() && !delivery.is_finished() {
                assert!(Instant::now() < until, "neither held nor done");
                thread::sleep(Duration::from_millis(5));
            }
            let was_held = self.has_cut();
            if was_held {
                meanwhile();
            }
            self.set(Mode::Pass);
            (delivery.join().unwrap(), was_held)
        })
    }

    fn has_cut(&self) -> bool {
        lock(&self.state).has_cut
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

fn forward(mut from: TcpStream, mut to: TcpStream, state: &Mutex<State>, is_client: bool) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut ends = false;
        let mut passes = true;
        loop {
            let mut state = lock(state);
            match &mut state.mode {
                Mode::Pass => {}
                Mode::Hang => passes = false,
                Mode::Away => (passes, ends) = (false, true),
                Mode::Cut { after: 0, forwards } if is_client => {
                    (passes, ends) = (*forwards, true);
                    state.has_cut = true;
                    state.mode = Mode::Pass;
                }
                Mode::Hold { after: 0 } if is_client => {
                    state.has_cut = true;
                    drop(state);
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Mode::Cut { after, .. } | Mode::Hold { after } if is_client => *after -= 1,
                Mode::Cut { .. } | Mode::Hold { .. } => {}
            }
            break;
        }
        if ends {
            // First: the answer must not come back.
            let _ = from.shutdown(Shutdown::Both);
        }
        if (passes && to.write_all(&buffer[..count]).is_err()) || ends {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
