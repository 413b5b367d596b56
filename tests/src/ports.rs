//! Free TCP ports on this machine.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// Below the range that Linux gives to outgoing connections: a server that is down for a while must find
/// its port free again, and nobody may connect to itself there.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that nothing listens on and that this process has not given out before.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free() -> u16 {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let size = RANGE.end - RANGE.start;
    // Processes that run at the same time start their search at different places.
    let first = u16::try_from(std::process::id() % u32::from(size)).unwrap();
    let port = (RANGE.start + first..RANGE.end)
        .chain(RANGE.start..RANGE.start + first)
        .find(|port| !taken.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("no free TCP port");
    taken.insert(port);
    port
}

/// A free port as an address on the loopback interface.
#[must_use]
pub fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free()))
}
