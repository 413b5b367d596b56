//! Reads a page of a list: its records as they are written, the next page, the total. Pure.

use bytes::Bytes;
use shared::config::{NextPage, ResourceConfig, template_parts};
use shared::json::{self, Found, Pointers};
use shared::selector::Selector;

/// Where things stand in the answers of one resource.
pub(super) struct Reader {
    list: Pointers,
    items: Option<usize>,
    cursor: Option<usize>,
    total: Option<usize>,
    one: Pointers,
    item: Option<usize>,
}

/// What an answer has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Each one as it is written.
    pub(super) records: Vec<Bytes>,
    /// The cursor of the next page.
    pub(super) cursor: Option<String>,
    pub(super) total: Option<u64>,
}

impl Reader {
    pub(super) fn new(config: &ResourceConfig) -> Self {
        let (mut list, mut one) = (Pointers::default(), Pointers::default());
        let add = |pointers: &mut Pointers, selector: Option<&Selector>| match selector {
            Some(Selector::Pointer(tokens)) => Some(pointers.add(tokens)),
            Some(Selector::Header(_) | Selector::BodySha256 | Selector::Path) | None => None,
        };
        let cursor = match &config.next {
            Some(NextPage::Cursor { at, .. }) => Some(at),
            Some(NextPage::Link {} | NextPage::Page { .. }) | None => None,
        };
        let items = add(&mut list, config.items.as_ref());
        let cursor = add(&mut list, cursor);
        let total = add(&mut list, config.total.as_ref());
        let item = add(&mut one, config.item.as_ref());
        Self { list, items, cursor, total, one, item }
    }

    /// Reads a page.
    ///
    /// # Errors
    /// What is not as it must be.
    pub(super) fn page(&self, body: &Bytes) -> Result<Page, String> {
        let found = json::read(body, &self.list).map_err(|error| answer(&error))?;
        let at = |slot: Option<usize>| slot.and_then(|slot| found.get(slot));
        let array = match (self.items, at(self.items)) {
            (None, _) => std::str::from_utf8(body).map_err(|_| "the answer is not UTF-8".to_owned())?,
            (Some(_), Some(Found::Array(raw))) => raw,
            (Some(_), Some(Found::Missing | Found::Null) | None) => {
                return Err("the answer has no list where `items` points".to_owned());
            }
            (Some(_), Some(Found::Object(_) | Found::Text { .. } | Found::Literal(_))) => {
                return Err("what `items` points at is not an array".to_owned());
            }
        };
        let records = json::array(array).map_err(|_| "the answer is not an array of records".to_owned())?;
        let cursor = match at(self.cursor) {
            Some(Found::Text { text, .. }) if !text.is_empty() => Some(text.clone().into_owned()),
            Some(Found::Literal(text)) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                Some((*text).to_owned())
            }
            Some(Found::Text { .. } | Found::Missing | Found::Null) | None => None,
            Some(Found::Literal(_) | Found::Object(_) | Found::Array(_)) => {
                return Err("what `next.cursor.at` points at is no cursor".to_owned());
            }
        };
        let total = match at(self.total) {
            Some(Found::Literal(text)) => text.parse().ok(),
            _ => None,
        };
        Ok(Page {
            records: records.into_iter().map(|raw| body.slice_ref(raw.as_bytes())).collect(),
            cursor,
            total,
        })
    }

    /// Reads the answer that has one record.
    ///
    /// # Errors
    /// What is not as it must be.
    pub(super) fn one(&self, body: &Bytes) -> Result<Bytes, String> {
        let found = json::read(body, &self.one).map_err(|error| answer(&error))?;
        let Some(slot) = self.item else { return Ok(body.clone()) };
        match found.get(slot) {
            Some(Found::Object(raw)) => Ok(body.slice_ref(raw.as_bytes())),
            _ => Err("the answer has no record where `item` points".to_owned()),
        }
    }
}

/// The walk speaks of a body.
fn answer(error: &str) -> String {
    error.replacen("body", "the answer", 1)
}

/// Makes a body from a template: what stands in braces becomes JSON, `{record}` as it is written.
pub(super) fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> Bytes {
    let mut out = String::with_capacity(template.len() + 512);
    for (text, name) in template_parts(template) {
        out.push_str(text);
        if let Some(name) = name {
            out.push_str(value(name).as_deref().unwrap_or("null"));
        }
    }
    Bytes::from(out)
}

/// A text as JSON has it.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(more: &str) -> Reader {
        let text = format!("path = \"/x\"\nbody = '{{record}}'\n{more}");
        Reader::new(&toml::from_str(&text).unwrap())
    }

    /// Records, cursor, total.
    type Read = (Vec<&'static str>, Option<String>, Option<u64>);

    fn read(more: &str, body: &'static str) -> Result<Read, String> {
        reader(more).page(&Bytes::from_static(body.as_bytes())).map(|page| {
            let records = page.records.iter().map(|r| {
                let from = r.as_ptr() as usize - body.as_ptr() as usize;
                &body[from..from + r.len()]
            });
            (records.collect(), page.cursor, page.total)
        })
    }

    const MAKINI: &str =
        "items = \"/data\"\ntotal = \"/total\"\nnext.cursor = { param = \"cursor\", at = \"/next_cursor\" }";

    #[test]
    fn records_are_as_they_are_written() {
        let body = r#"{"data":[{"a": 1.10},"x"],"next_cursor":"c/2","total":7}"#;
        let page = (vec![r#"{"a": 1.10}"#, r#""x""#], Some("c/2".to_owned()), Some(7));
        assert_eq!(read(MAKINI, body), Ok(page));
        for last in [r#"{"data":[]}"#, r#"{"data":[],"next_cursor":null}"#, r#"{"data":[],"next_cursor":""}"#]
        {
            assert_eq!(read(MAKINI, last), Ok((vec![], None, None)));
        }
        assert_eq!(read("", "[1, 2]"), Ok((vec!["1", "2"], None, None)));
        let number = r#"{"data":[],"next_cursor":500}"#;
        assert_eq!(read(MAKINI, number).unwrap().1.as_deref(), Some("500"));
    }

    #[test]
    fn what_is_no_page_is_said_without_its_contents() {
        for (body, why) in [
            ("<html><body>hunter2</body></html>", "the answer is not JSON: it breaks the grammar"),
            (r#"{"data":[1,2"#, "the answer is not JSON: it ends too early"),
            (r#"{"data":"hunter2"}"#, "not an array"),
            (r#"{"items":[]}"#, "no list where `items` points"),
            (r#"{"data":[],"next_cursor":{"hunter2":1}}"#, "is no cursor"),
        ] {
            let error = read(MAKINI, body).unwrap_err();
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
        assert!(read("", "{}").is_err());
    }

    #[test]
    fn a_body_is_made_as_the_template_says() {
        let body =
            fill(r#"{"type":{type},"who":{connection},"data":{record},"odd":{"x":{}}}"#, |name| match name {
                "record" => Some(r#"{"a": 1.10}"#.to_owned()),
                "type" => Some(quoted("order.\"updated\"")),
                _ => None,
            });
        let made = r#"{"type":"order.\"updated\"","who":null,"data":{"a": 1.10},"odd":{"x":{}}}"#;
        assert_eq!(body, made);
    }
}
