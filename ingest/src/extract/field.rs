//! Takes one value after the other from a webhook, and remembers the first problem.

use std::borrow::Cow;

use http::HeaderName;
use shared::json::Found;

use super::plan::{Field, From, Kind};
use super::{Request, fallback_id, fit};

/// What a kind's second part is joined with.
const KIND_SEPARATOR: char = '.';

/// Reads the values of one event.
pub(super) struct Reader<'w> {
    request: Request<'w>,
    body: &'w [u8],
    /// The event's place in an array.
    index: Option<usize>,
    document: Result<Vec<Found<'w>>, String>,
    problem: Option<String>,
}

impl<'w> Reader<'w> {
    /// A body that is not JSON is the event's problem, whatever else can be read.
    pub(super) fn new(
        request: Request<'w>,
        body: &'w [u8],
        index: Option<usize>,
        document: Result<Vec<Found<'w>>, String>,
    ) -> Self {
        let problem = document.as_ref().err().cloned();
        Self { request, body, index, document, problem }
    }

    /// The first thing that was wrong.
    pub(super) fn into_problem(self) -> Option<String> {
        self.problem
    }

    /// A value that must be there.
    pub(super) fn take(&mut self, what: &str, field: &Field) -> Option<Cow<'w, str>> {
        let fitting = self.read(field).and_then(|text| match fit(&text) {
            Ok(()) => Ok(text),
            Err(problem) => Err(format!("{} {problem}", field.text)),
        });
        fitting.map_err(|problem| self.note(what, &problem)).ok()
    }

    /// A value that may as well be missing.
    pub(super) fn attempt(&self, field: Option<&Field>) -> Option<Cow<'w, str>> {
        self.read(field?).ok().filter(|text| fit(text).is_ok())
    }

    /// The event's id. A header's stands for the whole request, so an array's events are told apart by place.
    pub(super) fn id(&mut self, field: &Field) -> Option<Cow<'w, str>> {
        let id = self.take("id", field)?;
        match (self.index, &field.from) {
            (Some(index), From::Header(_) | From::SignedId) => {
                self.made("id", "with its place", format!("{id}#{index}")).map(Cow::Owned)
            }
            (Some(_), From::Body(_) | From::BodySha256 | From::Path) | (None, _) => Some(id),
        }
    }

    /// The event's type; `None` where it cannot be read.
    pub(super) fn kind(&mut self, kind: &Kind) -> Option<Cow<'w, str>> {
        match kind {
            Kind::Constant => Some(Cow::Borrowed(super::KIND_DEFAULT)),
            Kind::Field(field) => self.take("type", field),
            Kind::FieldAndSuffix(field, suffix) => {
                let first = self.take("type", field)?;
                let Some(second) = self.text(suffix) else { return Some(first) };
                self.made("type", "with its suffix", format!("{first}{KIND_SEPARATOR}{second}"))
                    .map(Cow::Owned)
            }
        }
    }

    /// The entity's id with its prefix.
    pub(super) fn prefixed(&mut self, prefix: &str, id: &str) -> Option<String> {
        self.made("entity", "with its prefix", format!("{prefix}{id}"))
    }

    /// What was made of a value must fit as well.
    fn made(&mut self, what: &str, how: &str, text: String) -> Option<String> {
        match fit(&text) {
            Ok(()) => Some(text),
            Err(problem) => {
                self.note(what, &format!("{problem} {how}"));
                None
            }
        }
    }

    fn note(&mut self, what: &str, problem: &str) {
        // A body that is not JSON was noted at once, and is why its values are missing.
        self.problem.get_or_insert_with(|| format!("{what}: {problem}"));
    }

    /// A string in the body, where there is one.
    fn text(&self, field: &Field) -> Option<Cow<'w, str>> {
        let From::Body(slot) = field.from else { return None };
        match self.document.as_ref().ok()?.get(slot)? {
            Found::Text { text, .. } => Some(text.clone()),
            Found::Literal(_) | Found::Missing | Found::Null | Found::Object(_) | Found::Array(_) => None,
        }
    }

    fn read(&self, field: &Field) -> Result<Cow<'w, str>, String> {
        let missing = || format!("{} is missing", field.text);
        match &field.from {
            From::Body(slot) => self.found(*slot, &field.text),
            From::Header(name) => self.header(name, &field.text).map(Cow::Borrowed),
            From::SignedId => self.request.signed_id.map(Cow::Borrowed).ok_or_else(missing),
            From::BodySha256 => Ok(Cow::Owned(fallback_id(self.body))),
            From::Path => self.request.path_connection.map(Cow::Borrowed).ok_or_else(missing),
        }
    }

    fn found(&self, slot: usize, pointer: &str) -> Result<Cow<'w, str>, String> {
        let document = self.document.as_ref().map_err(|problem| problem.clone())?;
        match document.get(slot).unwrap_or(&Found::Missing) {
            Found::Text { text, .. } => Ok(text.clone()),
            Found::Literal(text) => Ok(Cow::Borrowed(text)),
            Found::Missing => Err(format!("{pointer} is missing")),
            Found::Null => Err(format!("{pointer} is null")),
            Found::Object(_) => Err(format!("{pointer} points at an object")),
            Found::Array(_) => Err(format!("{pointer} points at an array")),
        }
    }

    fn header(&self, name: &HeaderName, text: &str) -> Result<&'w str, String> {
        let mut values = self.request.headers.into_iter().flat_map(|headers| headers.get_all(name));
        let value = values.next().ok_or_else(|| format!("{text} is missing"))?;
        if values.next().is_some() {
            return Err(format!("{text} stands more than once"));
        }
        std::str::from_utf8(value.as_bytes()).map_err(|_| format!("{text} is not text"))
    }
}
