//! JSON as typed values, none of which loses a digit; or why not. No message repeats a value.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::civil::Date;
use shared::config::ColumnType;
use shared::json::Found;

/// Digits of a decimal, written without an exponent.
const DIGITS_MAX: usize = 1_000;

/// A column's value.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::sink) enum Value<'a> {
    Null,
    Text(Cow<'a, str>),
    Integer(i64),
    /// Sign, digits and a point at most: no exponent.
    Decimal(Cow<'a, str>),
    Boolean(bool),
    /// In whole microseconds.
    Timestamp(Timestamp),
    Date(Date),
    /// As it is written.
    Json(Cow<'a, str>),
    /// From a look-up alone, in a database that has such numbers in any column.
    Real(f64),
}

/// What stands in a body, as a value of a type.
///
/// # Errors
/// What was found, and what it is not.
pub(super) fn of<'b>(kind: ColumnType, found: &Found<'b>) -> Result<Value<'b>, String> {
    if matches!(found, Found::Missing | Found::Null) {
        return Ok(Value::Null);
    }
    let number = match found {
        Found::Text { text, .. } if is_number(text) => Some(text.clone()),
        Found::Literal(raw) if is_number(raw) => Some(Cow::Borrowed(*raw)),
        Found::Text { .. }
        | Found::Literal(_)
        | Found::Missing
        | Found::Null
        | Found::Object(_)
        | Found::Array(_) => None,
    };
    let value = match (kind, found) {
        (ColumnType::Text, Found::Text { text, .. }) => Some(Value::Text(text.clone())),
        (ColumnType::Text, Found::Literal(_)) => number.map(Value::Text),
        (ColumnType::Integer, _) => match number.map(|number| number.parse()) {
            Some(Ok(number)) => Some(Value::Integer(number)),
            Some(Err(_)) => return Err("is no whole number below 2^63".to_owned()),
            None => None,
        },
        (ColumnType::Decimal, _) => match number.map(plain) {
            Some(Some(number)) => Some(Value::Decimal(number)),
            Some(None) => return Err(format!("has more than {DIGITS_MAX} digits")),
            None => None,
        },
        (ColumnType::Boolean, Found::Literal("true")) => Some(Value::Boolean(true)),
        (ColumnType::Boolean, Found::Literal("false")) => Some(Value::Boolean(false)),
        (ColumnType::Timestamp, Found::Text { text, .. }) => match timestamp(text) {
            None => return Err("is a string, but not a time of RFC 3339".to_owned()),
            time => time,
        },
        (ColumnType::Date, Found::Text { text, .. }) => match date(text) {
            None => return Err("is a string, but not a date such as 2026-01-31".to_owned()),
            date => date,
        },
        (ColumnType::Json, found) => raw(found).map(|raw| Value::Json(Cow::Borrowed(raw))),
        _ => None,
    };
    value.ok_or_else(|| format!("{}, not {}", what(found), article(kind)))
}

/// What was found, for a message.
pub(super) fn what(found: &Found<'_>) -> &'static str {
    match found {
        Found::Missing => "is missing",
        Found::Null => "is null",
        Found::Object(_) => "is an object",
        Found::Array(_) => "is an array",
        Found::Text { .. } => "is a string",
        Found::Literal("true" | "false") => "is true or false",
        Found::Literal(_) => "is a number",
    }
}

fn article(kind: ColumnType) -> String {
    let article = if kind == ColumnType::Integer { "an" } else { "a" };
    format!("{article} {kind}")
}

fn raw<'b>(found: &Found<'b>) -> Option<&'b str> {
    match found {
        Found::Object(raw) | Found::Array(raw) | Found::Literal(raw) | Found::Text { raw, .. } => Some(raw),
        Found::Missing | Found::Null => None,
    }
}

/// Whether a text is a number of JSON's grammar, and nothing else.
fn is_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok_and(|raw| raw.get() == text)
}

/// A number of JSON's grammar without its exponent; none where that would be too long.
fn plain(number: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let Some((mantissa, exponent)) = number.split_once(['e', 'E']) else {
        return (number.len() <= DIGITS_MAX).then_some(number);
    };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    // Where the point stands in the digits.
    let point = i64::try_from(whole.len()).ok()?.checked_add(exponent.parse().ok()?)?;
    let before = usize::try_from(point.max(0)).ok()?;
    let zeros = usize::try_from(point.min(0).checked_neg()?).ok()?;
    if digits.len() > DIGITS_MAX || before > DIGITS_MAX || zeros > DIGITS_MAX - digits.len() {
        return None;
    }
    let (whole, fraction) = digits.split_at(before.min(digits.len()));
    let whole = format!("{whole}{}", "0".repeat(before - whole.len()));
    let whole = whole.trim_start_matches('0');
    let mut out = format!("{sign}{}", if whole.is_empty() { "0" } else { whole });
    if !fraction.is_empty() {
        let _ = write!(out, ".{}{fraction}", "0".repeat(zeros));
    }
    Some(Cow::Owned(out))
}

/// A number of JSON's grammar as a decimal without an exponent; none where that would be too long.
pub(in crate::sink) fn decimal(number: &str) -> Option<Cow<'_, str>> {
    plain(Cow::Borrowed(number))
}

/// Whether two decimals without exponents are the same number.
pub(in crate::sink) fn same(a: &str, b: &str) -> bool {
    let zeros = |text: &str| match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        None => text.to_owned(),
    };
    zeros(a) == zeros(b)
}

/// How many digits after the point a decimal needs.
pub(super) fn scale(decimal: &str) -> usize {
    decimal.split_once('.').map_or(0, |(_, fraction)| fraction.trim_end_matches('0').len())
}

/// RFC 3339: date, `T`, time, and `Z` or an offset. What is below a microsecond is cut off.
pub(super) fn timestamp(text: &str) -> Option<Value<'static>> {
    let has_form = text.len() >= 20
        && is_date(text.get(..10)?)
        && matches!(text.as_bytes().get(10), Some(b'T' | b't'))
        && !text.contains('[');
    let time: Timestamp = if has_form { text.parse().ok()? } else { return None };
    Timestamp::from_microsecond(time.as_microsecond()).ok().map(Value::Timestamp)
}

fn date(text: &str) -> Option<Value<'static>> {
    if is_date(text) { text.parse().ok().map(Value::Date) } else { None }
}

/// Whether a text has the form of a date; the calendar's rules are jiff's.
fn is_date(text: &str) -> bool {
    text.len() == 10
        && text
            .bytes()
            .enumerate()
            .all(|(n, b)| if n == 4 || n == 7 { b == b'-' } else { b.is_ascii_digit() })
}

/// Values as one text, by which equal ones are known.
pub(in crate::sink) fn key<'v>(values: impl Iterator<Item = &'v Value<'v>>) -> String {
    let mut out = String::new();
    for value in values {
        let text = value.text();
        let _ = write!(out, "{}:{text},", text.len());
    }
    out
}

impl Value<'_> {
    /// The value as text.
    pub(in crate::sink) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Null => Cow::Borrowed(""),
            Self::Text(text) | Self::Decimal(text) | Self::Json(text) => Cow::Borrowed(text),
            Self::Integer(number) => number.to_string().into(),
            Self::Boolean(is) => Cow::Borrowed(if *is { "true" } else { "false" }),
            Self::Timestamp(time) => format!("{time:.6}").into(),
            Self::Date(date) => date.to_string().into(),
            Self::Real(number) => format!("{number:?}").into(),
        }
    }

    /// About how many bytes it takes in a statement.
    pub(in crate::sink) fn bytes(&self) -> usize {
        const FIXED: usize = 32;
        match self {
            Self::Text(text) | Self::Decimal(text) | Self::Json(text) => text.len() + FIXED,
            Self::Null
            | Self::Integer(_)
            | Self::Boolean(_)
            | Self::Timestamp(_)
            | Self::Date(_)
            | Self::Real(_) => FIXED,
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::json::{Pointers, read};

    use super::*;

    /// What a JSON text is as a type: the value as text, or the problem.
    fn value(kind: ColumnType, json: &str) -> Result<String, String> {
        let mut pointers = Pointers::default();
        let slot = pointers.add(&[]);
        let found = read(json.as_bytes(), &pointers).unwrap();
        of(kind, &found[slot]).map(|value| value.text().into_owned())
    }

    fn is(kind: ColumnType, json: &str, expected: &str) {
        assert_eq!(value(kind, json).as_deref(), Ok(expected), "{json}");
    }

    fn is_no(kind: ColumnType, json: &str, problem: &str) {
        assert_eq!(value(kind, json).unwrap_err(), problem, "{json}");
    }

    #[test]
    fn a_text_is_a_string_or_a_number_as_it_is_written() {
        is(ColumnType::Text, r#""Łukasz \u00e9 \ud83e\udd80 \"x\"""#, "Łukasz é 🦀 \"x\"");
        is(ColumnType::Text, "007e1".trim_start_matches('0'), "7e1");
        is(ColumnType::Text, "12.000", "12.000");
        is_no(ColumnType::Text, "true", "is true or false, not a text");
        is_no(ColumnType::Text, "{}", "is an object, not a text");
    }

    #[test]
    fn an_integer_beyond_2_to_53_is_exact_and_beyond_2_to_63_refused() {
        is(ColumnType::Integer, "9007199254740993", "9007199254740993");
        is(ColumnType::Integer, "\"-9223372036854775808\"", "-9223372036854775808");
        for json in ["9223372036854775808", "1.0", "1e3", "\"0.5\""] {
            is_no(ColumnType::Integer, json, "is no whole number below 2^63");
        }
        for json in ["\"\"", "\" 1\"", "\"+1\"", "\"01\"", "\"1 \"", "\"0x1\"", "\"null\""] {
            is_no(ColumnType::Integer, json, "is a string, not an integer");
        }
    }

    #[test]
    fn a_decimal_keeps_every_digit() {
        for number in
            ["0.1000000000000000055511151231257827", "-12.000", "0", "123456789012345678901234567890.5"]
        {
            is(ColumnType::Decimal, number, number);
            is(ColumnType::Decimal, &format!("\"{number}\""), number);
        }
        for (written, plain) in [
            ("1e3", "1000"),
            ("1.25E+1", "12.5"),
            ("-1.5e-3", "-0.0015"),
            ("0e5", "0"),
            ("0.05e1", "0.5"),
            ("12.340e1", "123.40"),
            ("123e-3", "0.123"),
            ("1e-400", &format!("0.{}1", "0".repeat(399))),
        ] {
            is(ColumnType::Decimal, written, plain);
        }
        for number in
            ["1e1001", "1e-1001", "1e99999999999999999999", "1e-9223372036854775808", &"9".repeat(1001)]
        {
            is_no(ColumnType::Decimal, number, "has more than 1000 digits");
        }
        is_no(ColumnType::Decimal, "\"1,5\"", "is a string, not a decimal");
        is_no(ColumnType::Decimal, "false", "is true or false, not a decimal");
        assert_eq!([scale("12.000"), scale("12.050"), scale("7")], [0, 2, 0]);
    }

    #[test]
    fn a_boolean_is_true_or_false() {
        is(ColumnType::Boolean, "true", "true");
        is(ColumnType::Boolean, "false", "false");
        is_no(ColumnType::Boolean, "1", "is a number, not a boolean");
        is_no(ColumnType::Boolean, "\"true\"", "is a string, not a boolean");
    }

    #[test]
    fn a_timestamp_is_in_utc_and_in_microseconds() {
        is(ColumnType::Timestamp, "\"2026-03-01T00:30:00.123456789+02:00\"", "2026-02-28T22:30:00.123456Z");
        is(ColumnType::Timestamp, "\"2026-03-01T00:30:00Z\"", "2026-03-01T00:30:00.000000Z");
        for text in [
            "2026-03-01",
            "2026-03-01T00:30:00",
            "2026-02-30T00:30:00Z",
            "2026-03-01 00:30:00Z",
            "1767225600",
        ] {
            let problem = "is a string, but not a time of RFC 3339";
            is_no(ColumnType::Timestamp, &format!("\"{text}\""), problem);
        }
        is_no(ColumnType::Timestamp, "1767225600", "is a number, not a timestamp");
    }

    #[test]
    fn a_date_is_one_of_the_calendar() {
        is(ColumnType::Date, "\"2024-02-29\"", "2024-02-29");
        for text in ["2026-02-29", "20260301", "2026-03-01T00:00:00Z", "2026-3-1", "01.03.2026"] {
            let problem = "is a string, but not a date such as 2026-01-31";
            is_no(ColumnType::Date, &format!("\"{text}\""), problem);
        }
    }

    #[test]
    fn json_stays_as_it_is_written_and_null_is_null() {
        for json in [r#"{"b": 1.50, "a":[null]}"#, "[ 1 ]", "\"\\u00e9\"", "1e400", "true"] {
            is(ColumnType::Json, json, json);
        }
        is(ColumnType::Json, "null", "");
        is(ColumnType::Integer, "null", "");
    }

    #[test]
    fn keys_are_equal_only_for_equal_values() {
        let text = |text: &'static str| Value::Text(text.into());
        let of = |values: &[Value<'static>]| key(values.iter());
        assert_ne!(of(&[text("a,1:b"), text("c")]), of(&[text("a"), text("b,1:c")]));
        assert_eq!(of(&[text("1")]), of(&[Value::Integer(1)]));
    }
}
