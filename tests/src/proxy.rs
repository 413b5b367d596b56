//! The network between the programs and a broker: cut, slow, or with requests that are late.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Kafka's number of the request that ends a transaction.
const END_TXN: i16 = 26;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// All goes through at once.
    Open,
    /// No connection lasts or comes about.
    Cut,
    /// Each request is late by so much.
    Slow(Duration),
    /// Requests that end a transaction are late by so much, and all that come after them on their connection.
    EndTxnLate(Duration),
}

/// A proxy before one broker. It understands as much of Kafka's protocol as it needs: each request is its length,
/// and begins with its number.
#[derive(Clone, Debug)]
pub struct Proxy(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    to: u16,
    way: Mutex<Way>,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Takes connections on one port and passes them on to another, as long as this process lives.
    ///
    /// # Panics
    /// When it cannot listen there.
    #[must_use]
    pub fn start(listen: u16, to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", listen)).expect("the proxy's port");
        let shared = Arc::new(Shared { to, way: Mutex::new(Way::Open), open: Mutex::default() });
        let this = Self(Arc::clone(&shared));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A connection that cannot be passed on is closed.
                let _ = shared.pass(client);
            }
        });
        this
    }

    /// From now on the network is so.
    pub fn set(&self, way: Way) {
        *self.0.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
        if way == Way::Cut {
            for stream in self.0.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Shared {
    fn way(&self) -> Way {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        if self.way() == Way::Cut {
            return Ok(());
        }
        let broker = TcpStream::connect(("127.0.0.1", self.to))?;
        for stream in [&client, &broker] {
            stream.set_nodelay(true)?;
            self.open.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
        }
        let (mut answers, mut back) = (broker.try_clone()?, client.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut answers, &mut back);
            let _ = back.shutdown(Shutdown::Both);
        });
        let this = Arc::clone(self);
        thread::spawn(move || {
            let _ = this.requests(&client, &broker);
            let _ = broker.shutdown(Shutdown::Both);
        });
        Ok(())
    }

    fn requests(&self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        loop {
            let mut length = [0; 4];
            from.read_exact(&mut length)?;
            let mut request = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap_or(0)];
            from.read_exact(&mut request)?;
            let number = request.first_chunk().map(|bytes| i16::from_be_bytes(*bytes));
            match self.way() {
                Way::Open | Way::Cut => {}
                Way::Slow(by) => thread::sleep(by),
                Way::EndTxnLate(by) if number == Some(END_TXN) => thread::sleep(by),
                Way::EndTxnLate(_) => {}
            }
            to.write_all(&length)?;
            to.write_all(&request)?;
        }
    }
}
