//! Reads a request's body within its limits of size, time and memory.
//!
//! Bodies that are still coming are nobody's yet: they have a budget of memory of their own, so that senders
//! without a secret cannot take the room of verified webhooks. A body that came with its head in one piece
//! needs none of it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use crate::problem::{Kind, Problem};
use crate::room::{Held, Room};

/// How long a refused request's body is read on, so that its sender hears the answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What a body may take.
pub(crate) struct Limits {
    pub(crate) bytes_max: u64,
    pub(crate) timeout: Duration,
    pub(crate) room: Room,
}

impl Limits {
    /// Reads the whole body.
    pub(crate) async fn read(&self, mut body: Incoming) -> Result<Bytes, Problem> {
        let read = tokio::time::timeout(self.timeout, self.frames(&mut body)).await;
        match read {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(problem)) if problem.kind == Kind::TooLarge => {
                self.drain(body).await;
                Err(problem.closing())
            }
            Ok(Err(problem)) => Err(problem.closing()),
            Err(_) => Err(Problem::new(Kind::Slow, "the body did not come in time").closing()),
        }
    }

    async fn frames(&self, body: &mut Incoming) -> Result<Bytes, Problem> {
        let Some(first) = self.frame(body, 0).await? else { return Ok(Bytes::new()) };
        if body.is_end_stream() {
            return Ok(first);
        }
        let mut held = self.hold(first.len())?;
        let mut whole = BytesMut::from(first);
        while let Some(next) = self.frame(body, whole.len()).await? {
            if !held.grow(next.len() as u64) {
                return Err(full());
            }
            whole.extend_from_slice(&next);
        }
        Ok(whole.freeze())
    }

    /// The next piece; `None` at the end. `before` is what has come already.
    async fn frame(&self, body: &mut Incoming, before: usize) -> Result<Option<Bytes>, Problem> {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::new(Kind::CutOff, "the body broke off"))?;
            // Trailers are nothing to us.
            if let Ok(data) = frame.into_data() {
                if (before + data.len()) as u64 > self.bytes_max {
                    return Err(self.too_large());
                }
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    fn hold(&self, bytes: usize) -> Result<Held, Problem> {
        self.room.take(bytes as u64).ok_or_else(full)
    }

    pub(crate) fn too_large(&self) -> Problem {
        Problem::new(Kind::TooLarge, format!("the limit is {} bytes", self.bytes_max))
    }

    /// Reads and forgets what a refused sender still sends. Closing a connection with unread bytes resets it,
    /// and the sender would not see the answer. Bounded: who sends much more hears nothing.
    pub(crate) async fn drain(&self, mut body: Incoming) {
        let all = async {
            let mut left = self.bytes_max.saturating_mul(2);
            while let Some(Ok(frame)) = body.frame().await {
                let size = frame.data_ref().map_or(0, Bytes::len) as u64;
                match left.checked_sub(size) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, all).await;
    }
}

fn full() -> Problem {
    Problem::unavailable("too many bodies are coming at once", 1)
}
