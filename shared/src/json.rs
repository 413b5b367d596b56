//! Walks once through a JSON body and collects what the pointers (RFC 6901) point at.
//!
//! No tree is built: what no pointer leads to is checked and skipped. Numbers are kept as their literal text,
//! so none is rounded. Of a repeated key the last counts, as in `serde_json`. The whole body must be JSON, and
//! nested so that any reader after us can take it.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

/// The deepest nesting that is taken. `serde_json`, and so what reads the log after us, refuses one more.
pub const NESTING_MAX: usize = 127;

/// What a pointer points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'b> {
    /// Nothing.
    Missing,
    /// `null`.
    Null,
    /// An object, as it is written.
    Object(&'b str),
    /// An array, as it is written.
    Array(&'b str),
    /// A string.
    Text {
        /// Unescaped.
        text: Cow<'b, str>,
        /// As it is written.
        raw: &'b str,
    },
    /// A number, `true` or `false`, as it is written.
    Literal(&'b str),
}

/// A set of pointers, as the tree that a walk follows.
#[derive(Debug, Default)]
pub struct Pointers {
    root: Node,
    slots: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// Where the value goes, if a pointer ends here.
    slot: Option<usize>,
    children: Vec<(String, Self)>,
}

impl Pointers {
    /// Adds a pointer, and returns the slot in which [`read`] puts its value. The same one gets the same slot.
    pub fn add(&mut self, tokens: &[String]) -> usize {
        let mut node = &mut self.root;
        for token in tokens {
            let at = node.children.iter().position(|(name, _)| name == token).unwrap_or_else(|| {
                node.children.push((token.clone(), Node::default()));
                node.children.len() - 1
            });
            let Some((_, child)) = node.children.get_mut(at) else { return self.slots };
            node = child;
        }
        *node.slot.get_or_insert_with(|| {
            self.slots += 1;
            self.slots - 1
        })
    }

    /// Whether there is no pointer: then a body need not be read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots == 0
    }
}

/// What the pointers point at, by slot.
///
/// # Errors
/// Why the body is not JSON.
pub fn read<'b>(body: &'b [u8], pointers: &Pointers) -> Result<Vec<Found<'b>>, String> {
    let text = text(body)?;
    let mut found = vec![Found::Missing; pointers.slots];
    let mut json = serde_json::Deserializer::from_str(text);
    Walk { node: &pointers.root, found: &mut found }
        .deserialize(&mut json)
        .and_then(|()| json.end())
        .map_err(|error| not_json(&error))?;
    Ok(found)
}

/// Whether the body is an array, if it is JSON at all.
#[must_use]
pub fn is_array(body: &[u8]) -> bool {
    body.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) == Some(&b'[')
}

/// An array's elements.
pub enum Elements {
    /// Each one's bytes, exactly as they stand in the body.
    Each(Vec<Bytes>),
    /// The array cannot be taken apart; why.
    Unreadable(String),
}

/// Takes an array apart into at most `max` elements.
#[must_use]
pub fn elements(body: &Bytes, max: usize) -> Elements {
    let read = || -> Result<Vec<Bytes>, String> {
        let raw: Vec<&RawValue> = serde_json::from_str(text(body)?).map_err(|error| not_json(&error))?;
        if raw.len() > max {
            return Err(format!("body is an array of more than {max} events"));
        }
        if raw.is_empty() {
            return Err("body is an array of no events".to_owned());
        }
        Ok(raw.into_iter().map(|element| body.slice_ref(element.get().as_bytes())).collect())
    };
    read().map_or_else(Elements::Unreadable, Elements::Each)
}

/// The elements of an array that was found, each as it is written.
///
/// # Errors
/// It is none.
pub fn array(raw: &str) -> Result<Vec<&str>, String> {
    let elements: Vec<&RawValue> = serde_json::from_str(raw).map_err(|error| not_json(&error))?;
    Ok(elements.into_iter().map(RawValue::get).collect())
}

fn text(body: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(body).map_err(|_| "body is not JSON: it is not UTF-8".to_owned())?;
    if nests_deeper(text.as_bytes(), NESTING_MAX) {
        return Err(format!("body nests deeper than {NESTING_MAX} levels"));
    }
    Ok(text)
}

/// Says where, and which kind of error; what stands there is not repeated.
fn not_json(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax
        | serde_json::error::Category::Data
        | serde_json::error::Category::Io => "it breaks the grammar",
    };
    match error.line() {
        0 => format!("body is not JSON: {what}"),
        line => format!("body is not JSON: {what}, line {line} column {}", error.column()),
    }
}

/// Skipped parts are read without recursion and so without a limit: this is the limit.
fn nests_deeper(text: &[u8], max: usize) -> bool {
    if text.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= max {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > max {
            return true;
        }
    }
    false
}

/// One value on the way of some pointer.
struct Walk<'p, 'f, 'b> {
    node: &'p Node,
    found: &'f mut [Found<'b>],
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        let Some(slot) = self.node.slot else { return json.deserialize_any(self) };
        let raw = <&RawValue>::deserialize(json)?.get();
        // Without the inner error, whose position counts from the value's start.
        let value = classify(raw).map_err(|_| D::Error::custom("not a string"))?;
        let goes_on = matches!(value, Found::Object(_) | Found::Array(_)) && !self.node.children.is_empty();
        if let Some(place) = self.found.get_mut(slot) {
            *place = value;
        }
        if goes_on {
            serde_json::Deserializer::from_str(raw).deserialize_any(self).map_err(D::Error::custom)?;
        }
        Ok(())
    }
}

fn classify(raw: &str) -> serde_json::Result<Found<'_>> {
    Ok(match raw.as_bytes().first() {
        Some(b'"') => Found::Text { text: unquote(raw)?, raw },
        Some(b'{') => Found::Object(raw),
        Some(b'[') => Found::Array(raw),
        Some(b'n') => Found::Null,
        _ => Found::Literal(raw),
    })
}

fn unquote(raw: &str) -> serde_json::Result<Cow<'_, str>> {
    match raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Ok(Cow::Borrowed(plain)),
        _ => serde_json::from_str::<String>(raw).map(Cow::Owned),
    }
}

impl<'b> Walk<'_, '_, 'b> {
    /// The child's seed. What an earlier key of the same name gave is forgotten.
    fn child(&mut self, index: usize) -> Option<Walk<'_, '_, 'b>> {
        let (_, node) = self.node.children.get(index)?;
        forget(node, self.found);
        Some(Walk { node, found: self.found })
    }
}

fn forget(node: &Node, found: &mut [Found<'_>]) {
    if let Some(place) = node.slot.and_then(|slot| found.get_mut(slot)) {
        *place = Found::Missing;
    }
    for (_, child) in &node.children {
        forget(child, found);
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(child) = map.next_key_seed(Key(self.node))? {
            match child.and_then(|index| self.child(index)) {
                Some(walk) => map.next_value_seed(walk)?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        for place in 0_usize.. {
            let child = self.node.children.iter().position(|(token, _)| array_index(token) == Some(place));
            let more = match child.and_then(|index| self.child(index)) {
                Some(walk) => seq.next_element_seed(walk)?.is_some(),
                None => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// RFC 6901: digits without a leading zero.
fn array_index(token: &str) -> Option<usize> {
    let canonical = token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    canonical.then(|| token.parse().ok()).flatten()
}

/// A key: which child of the node it names.
struct Key<'p>(&'p Node);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<usize>, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.0.children.iter().position(|(token, _)| token == key))
    }
}
