//! A record's key, headers and body in one block of bytes: read from the log without an allocation a field,
//! kept in the state while the event is held, and the thing that a digest of a record is taken of.
//!
//! Layout, little-endian: key length `u32` (`u32::MAX`: no key), key; number of headers `u16`; each as name
//! length `u16`, name, value length `u32` (`u32::MAX`: none), value; then `0` for no body or `1` and the body.

use bytes::Bytes;
use shared::event::{EventView, NotAnEvent, header};

use crate::position::Digest;

const NONE: u32 = u32::MAX;

/// Key and body, each where there is one.
type Parts<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// A record's key, headers and body. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Frame(Bytes);

/// The bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored record is damaged")]
pub struct Damaged;

/// About how many bytes the headers of an event take.
const HEADERS_BYTES: usize = 1024;

impl Frame {
    /// Packs a record.
    #[must_use]
    pub fn pack<'a>(
        key: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
        body: Option<&[u8]>,
    ) -> Self {
        let known = key.map_or(0, <[u8]>::len) + body.map_or(0, <[u8]>::len);
        let mut out = Vec::with_capacity(known + HEADERS_BYTES);
        put_long(&mut out, key);
        let count_at = out.len();
        out.extend([0, 0]);
        let mut count: u16 = 0;
        for (name, value) in headers {
            let Ok(len) = u16::try_from(name.len()) else { continue };
            count = count.saturating_add(1);
            out.extend(len.to_le_bytes());
            out.extend(name.as_bytes());
            put_long(&mut out, value);
        }
        if let Some(slot) = out.get_mut(count_at..count_at + 2) {
            slot.copy_from_slice(&count.to_le_bytes());
        }
        out.push(u8::from(body.is_some()));
        out.extend(body.unwrap_or_default());
        Self(Bytes::from(out))
    }

    /// A frame from its stored bytes.
    ///
    /// # Errors
    /// They are none.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, Damaged> {
        let frame = Self(bytes);
        frame.parts().map(|_| ()).ok_or(Damaged)?;
        Ok(frame)
    }

    /// The stored form.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The record's key; empty where there is none.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        Reader(&self.0).long().flatten().unwrap_or_default()
    }

    /// The record's body; empty where there is none.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.parts().and_then(|(_, body)| body).unwrap_or_default()
    }

    /// The headers, in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let mut reader = Reader(&self.0);
        let _ = reader.long();
        let count = reader.short().unwrap_or(0);
        (0..count).map_while(move |_| Some((reader.name()?, reader.long()?)))
    }

    /// The event in this record.
    ///
    /// # Errors
    /// It is none.
    pub fn event(&self) -> Result<EventView<'_>, NotAnEvent> {
        EventView::parse(self.headers().map(|(name, value)| (name, value.unwrap_or_default())))
    }

    /// Whether the record is what polling found, and no webhook.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.headers().any(|(name, _)| name == header::SNAPSHOT.as_bytes())
    }

    /// The id of the event's trace, for a log line; none where this is no event, or without a trace.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.event().ok()?.traceparent.map(shared::spans::trace_id)
    }

    /// The digest of the whole record.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }

    /// Bytes that the frame takes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the frame is the default one, which packs no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Key and body, if the whole frame is well-formed.
    fn parts(&self) -> Option<Parts<'_>> {
        let mut reader = Reader(&self.0);
        let key = reader.long()?;
        for _ in 0..reader.short()? {
            reader.name()?;
            reader.long()?;
        }
        let (flag, body) = reader.0.split_first()?;
        match flag {
            0 if body.is_empty() => Some((key, None)),
            1 => Some((key, Some(body))),
            _ => None,
        }
    }
}

fn put_long(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let len = value.map_or(NONE, |v| u32::try_from(v.len()).unwrap_or(NONE - 1));
    out.extend(len.to_le_bytes());
    out.extend(value.unwrap_or_default());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn short(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_le_bytes)
    }

    fn name(&mut self) -> Option<&'a [u8]> {
        let len = self.short()?;
        self.take(usize::from(len))
    }

    #[allow(clippy::option_option, reason = "damaged, absent and present are three things")]
    fn long(&mut self) -> Option<Option<&'a [u8]>> {
        let len = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        if len == NONE {
            return Some(None);
        }
        self.take(usize::try_from(len).ok()?).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Parts = (Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>, Option<Vec<u8>>);

    fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20))
    }

    fn parts() -> impl Strategy<Value = Parts> {
        (bytes(), proptest::collection::vec((".{0,9}", bytes()), 0..6), bytes())
    }

    fn pack((key, headers, body): &Parts) -> Frame {
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        Frame::pack(key.as_deref(), headers, body.as_deref())
    }

    proptest! {
        #[test]
        fn a_frame_gives_back_what_was_packed(parts in parts()) {
            let frame = Frame::from_bytes(pack(&parts).as_bytes().clone()).unwrap();
            prop_assert_eq!(frame.key(), parts.0.as_deref().unwrap_or_default());
            prop_assert_eq!(frame.body(), parts.2.as_deref().unwrap_or_default());
            let headers: Vec<_> = frame
                .headers()
                .map(|(name, value)| (String::from_utf8(name.to_vec()).unwrap(), value.map(<[u8]>::to_vec)))
                .collect();
            prop_assert_eq!(headers, parts.1);
        }

        #[test]
        fn different_records_have_different_frames(a in parts(), b in parts()) {
            prop_assert_eq!(pack(&a) == pack(&b), a == b);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(frame) = Frame::from_bytes(Bytes::from(bytes)) {
                let _ = (frame.key(), frame.body(), frame.headers().count(), frame.event());
            }
        }
    }
}
