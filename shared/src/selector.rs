//! Where in a webhook a value stands: a JSON pointer into the body, a header, or the body's hash.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The place of one value in a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// A JSON pointer (RFC 6901) into the body, such as `/data/id`; its tokens, unescaped.
    Pointer(Vec<String>),
    /// A request header, in lower case: `header:x-github-delivery`.
    Header(String),
    /// The SHA-256 of the body: `body-sha256`.
    BodySha256,
    /// The last segment of the request's path, `/webhooks/{source}/{connection}`: `path`.
    Path,
}

impl Selector {
    /// Parses the text form.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix('/') {
            return rest.split('/').map(unescape).collect::<Option<Vec<_>>>().map(Self::Pointer).ok_or_else(
                || format!("`{text}` is not a JSON pointer (RFC 6901): a `~` must be followed by 0 or 1"),
            );
        }
        match text {
            "body-sha256" => Ok(Self::BodySha256),
            "path" => Ok(Self::Path),
            _ => match text.strip_prefix("header:") {
                Some(name) if is_header_name(name) => Ok(Self::Header(name.to_ascii_lowercase())),
                _ => Err(format!(
                    "`{text}` names no place in a webhook; allowed are a JSON pointer such as \"/data/id\", \
                     \"header:NAME\", \"body-sha256\" and (for a connection) \"path\""
                )),
            },
        }
    }
}

fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn unescape(token: &str) -> Option<String> {
    let mut out = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '~' => match chars.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            other => other,
        });
    }
    Some(out)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pointer(tokens) => {
                for token in tokens {
                    write!(f, "/{}", token.replace('~', "~0").replace('/', "~1"))?;
                }
                Ok(())
            }
            Self::Header(name) => write!(f, "header:{name}"),
            Self::BodySha256 => f.write_str("body-sha256"),
            Self::Path => f.write_str("path"),
        }
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_follow_rfc_6901() {
        assert_eq!(Selector::parse("/a~1b/m~0n"), Ok(Selector::Pointer(vec!["a/b".into(), "m~n".into()])));
        assert!(Selector::parse("/a~2").is_err());
        assert!(Selector::parse("data/id").is_err());
        assert!(Selector::parse("header:bad name").is_err());
    }

    #[test]
    fn text_form_survives_a_round_trip() {
        for text in ["/a~1b/m~0n", "/", "header:x-id", "body-sha256", "path"] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), text);
        }
    }
}
