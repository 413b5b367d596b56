//! An HTTP server in the test's process, which notes what it is sent and answers what the test says.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Partition, offset and ordinal in `hookline-position`.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    pub fn position(&self) -> (i32, i64, i32) {
        let (partition, position) = self.header("hookline-position").split_once(':').expect("a partition");
        let (offset, ordinal) = position.split_once('.').expect("an ordinal");
        let number = "a number";
        (partition.parse().expect(number), offset.parse().expect(number), ordinal.parse().expect(number))
    }
}

/// Status and further header lines, each with its line break; `None` takes the event and then ends the connection.
pub type Answer = Option<(u16, &'static str)>;
type Decide = Box<dyn FnMut(&Request) -> Answer + Send>;

struct State {
    got: Vec<Request>,
    taken: BTreeMap<String, Request>,
    decide: Decide,
}

/// A receiver that does what the README asks of one: it takes an event once by its `Idempotency-Key`.
pub struct Receiver {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Receiver {
    /// Listens on a free port and takes everything.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let state = State { got: Vec::new(), taken: BTreeMap::new(), decide: Box::new(|_| Some((204, ""))) };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &state));
            }
        });
        Self { port, state }
    }

    /// From now on, it answers so. One request at a time is decided.
    ///
    /// # Panics
    /// When an earlier decision panicked.
    pub fn answers(&self, decide: impl FnMut(&Request) -> Answer + Send + 'static) {
        self.state.lock().unwrap().decide = Box::new(decide);
    }

    /// All requests so far, in the order in which they came.
    ///
    /// # Panics
    /// When a decision panicked.
    #[must_use]
    pub fn got(&self) -> Vec<Request> {
        self.state.lock().unwrap().got.clone()
    }

    /// What it took, each key once, in the order of positions.
    ///
    /// # Panics
    /// When a decision panicked.
    #[must_use]
    pub fn taken(&self) -> Vec<Request> {
        let mut taken: Vec<_> = self.state.lock().unwrap().taken.values().cloned().collect();
        taken.sort_by_key(Request::position);
        taken
    }

    /// A URL of it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut writer = stream;
    while let Some(request) = read(&mut reader) {
        let answer = {
            let mut state = state.lock().unwrap();
            state.got.push(request.clone());
            let answer = (state.decide)(&request);
            if answer.is_none_or(|(status, _)| (200..300).contains(&status)) {
                state.taken.entry(request.header("idempotency-key").to_owned()).or_insert(request);
            }
            answer
        };
        let Some((status, headers)) = answer else { return };
        // A body that nobody may repeat, where there may be one.
        let end = if status == 204 { "\r\n" } else { "content-length: 7\r\n\r\nhunter2" };
        if writer.write_all(format!("HTTP/1.1 {status} x\r\n{headers}{end}").as_bytes()).is_err() {
            return;
        }
    }
}

/// The next `POST` on a connection.
///
/// # Panics
/// When it is none, or a header is there twice.
#[must_use]
pub fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    assert!(line.starts_with("POST /"), "{line}");
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let former = headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        assert!(former.is_none(), "{name} is there twice");
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Request { headers, body })
}
