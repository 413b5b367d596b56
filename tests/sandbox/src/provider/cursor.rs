//! A cursor: after which record a list goes on. It holds for one connection, one list and one filter, and is signed,
//! so that one that does not belong is known.

use super::resource::Resource;
use crate::sign::hmac_sha256_hex;

/// Hex digits of the signature.
const SIGNATURE_LEN: usize = 16;

/// Where a list goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The place of the last record that was given out.
    pub(crate) after: u64,
    /// The list's filter, in milliseconds since 1970.
    pub(crate) modified_after_ms: Option<i64>,
}

impl Cursor {
    /// The text that the API gives out.
    pub(crate) fn text(self, key: &str, connection: &str, resource: Resource) -> String {
        let filter = self.modified_after_ms.map_or_else(|| "all".to_owned(), |ms| ms.to_string());
        let text = format!("{}.{filter}", self.after);
        let signature = sign(key, connection, resource, &text);
        format!("{text}.{signature}")
    }

    /// Reads a cursor; none where it was not given out for this connection and list.
    pub(crate) fn read(text: &str, key: &str, connection: &str, resource: Resource) -> Option<Self> {
        let (text, signature) = text.rsplit_once('.')?;
        if signature != sign(key, connection, resource, text) {
            return None;
        }
        let (after, filter) = text.split_once('.')?;
        let modified_after_ms = if filter == "all" { None } else { Some(filter.parse().ok()?) };
        Some(Self { after: after.parse().ok()?, modified_after_ms })
    }
}

fn sign(key: &str, connection: &str, resource: Resource, text: &str) -> String {
    let parts: [&[u8]; 5] = [connection.as_bytes(), b"/", resource.path().as_bytes(), b"/", text.as_bytes()];
    let mut signature = hmac_sha256_hex(key, &parts);
    signature.truncate(SIGNATURE_LEN);
    signature
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_where_it_was_given_out_and_nowhere_else() {
        for modified_after_ms in [None, Some(-5), Some(1_767_600_000_000)] {
            let cursor = Cursor { after: 41, modified_after_ms };
            let text = cursor.text("key", "acme", Resource::Assets);
            assert_eq!(Cursor::read(&text, "key", "acme", Resource::Assets), Some(cursor));
            assert_eq!(Cursor::read(&text, "key", "globex", Resource::Assets), None);
            assert_eq!(Cursor::read(&text, "key", "acme", Resource::Suppliers), None);
            assert_eq!(Cursor::read(&text, "other", "acme", Resource::Assets), None);
            assert_eq!(Cursor::read(&text.replace("41", "42"), "key", "acme", Resource::Assets), None);
        }
        for text in ["", ".", "41", "41.all", "41.all."] {
            assert_eq!(Cursor::read(text, "key", "acme", Resource::Assets), None, "{text}");
        }
    }
}
