//! A signature scheme as data: which headers, what is signed, how the signature is written.
//!
//! Standard Webhooks, GitHub and the configurable HMAC are rows of one table, [`Scheme::new`]; the code below
//! it does not know which row it works for.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName};
use secrecy::ExposeSecret;
use shared::config::{Encoding, Hash, HmacScheme, Secret, VerifyConfig};
use shared::units::Span;

use super::Refusal;
use super::mac::{Mac, Tag};
use crate::error::SetupError;

/// The most that a request's signature headers may take together: the record carries them.
pub const SIGNATURE_HEADERS_BYTES_MAX: usize = 16 * 1024;

/// How far a signed time may be from now where the configuration does not say.
const TOLERANCE_DEFAULT: Span = Span::secs(300);

const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new());
const BASE64URL: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, ANY_PADDING);
const BASE64_KEY: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, ANY_PADDING);

/// One row of the table of schemes.
#[derive(Debug)]
pub struct Scheme {
    name: &'static str,
    /// Names under which the same things may stand; the first set whose signature is there counts.
    sets: Vec<HeaderSet>,
    hash: Hash,
    encoding: Encoding,
    /// Before each signature; what has another prefix is another version's, and passed over.
    prefix: String,
    separator: Option<String>,
    template: Vec<Part>,
    key_form: KeyForm,
    tolerance: Option<Span>,
}

/// The headers that one spelling of a scheme uses.
#[derive(Debug)]
struct HeaderSet {
    signature: HeaderName,
    id: Option<HeaderName>,
    timestamp: Option<HeaderName>,
}

/// A piece of what is signed.
#[derive(Debug)]
enum Part {
    Text(String),
    Id,
    Timestamp,
    Header(HeaderName),
    Body,
}

/// How a secret's text becomes a key.
#[derive(Clone, Copy, Debug)]
enum KeyForm {
    /// Its bytes.
    Bytes,
    /// Base64, after `whsec_` if it starts so.
    Whsec,
}

impl Scheme {
    /// The row for a source's configuration.
    pub(super) fn new(source_key: &str, config: &VerifyConfig) -> Result<Self, SetupError> {
        match config {
            VerifyConfig::Standard(simple) => Ok(Self {
                name: "standard",
                sets: vec![
                    HeaderSet::known("webhook-signature", Some(("webhook-id", "webhook-timestamp"))),
                    HeaderSet::known("svix-signature", Some(("svix-id", "svix-timestamp"))),
                ],
                hash: Hash::Sha256,
                encoding: Encoding::Base64,
                prefix: "v1,".to_owned(),
                separator: Some(" ".to_owned()),
                template: vec![
                    Part::Id,
                    Part::Text(".".to_owned()),
                    Part::Timestamp,
                    Part::Text(".".to_owned()),
                    Part::Body,
                ],
                key_form: KeyForm::Whsec,
                tolerance: Some(simple.tolerance.unwrap_or(TOLERANCE_DEFAULT)),
            }),
            VerifyConfig::Github(simple) => {
                no_tolerance(simple.tolerance, &format!("{source_key}.verify.github"))?;
                Ok(Self {
                    name: "github",
                    sets: vec![HeaderSet::known("x-hub-signature-256", None)],
                    hash: Hash::Sha256,
                    encoding: Encoding::Hex,
                    prefix: "sha256=".to_owned(),
                    separator: None,
                    template: vec![Part::Body],
                    key_form: KeyForm::Bytes,
                    tolerance: None,
                })
            }
            VerifyConfig::Hmac(hmac) => Self::generic(&format!("{source_key}.verify.hmac"), hmac),
        }
    }

    fn generic(key: &str, hmac: &HmacScheme) -> Result<Self, SetupError> {
        let name = |field: &str, text: &str| header_name(&format!("{key}.{field}"), text);
        let optional = |field: &str, text: Option<&String>| text.map(|text| name(field, text)).transpose();
        if hmac.timestamp_header.is_none() {
            no_tolerance(hmac.tolerance, key)?;
        }
        if hmac.separator.as_ref().is_some_and(String::is_empty) {
            return Err(SetupError::new(
                format!("{key}.separator"),
                "is empty; remove it, or write such as \",\"",
            ));
        }
        let template = template(hmac.template.get_ref()).map_err(|message| {
            SetupError::new(format!("{key}.template"), message).at(hmac.template.span())
        })?;
        let id = optional("id_header", hmac.id_header.as_ref())?;
        Ok(Self {
            name: "hmac",
            sets: vec![HeaderSet {
                signature: name("header", &hmac.header)?,
                // An id that is not signed vouches for nothing, and is not asked for.
                id: id.filter(|_| template.iter().any(|part| matches!(part, Part::Id))),
                timestamp: optional("timestamp_header", hmac.timestamp_header.as_ref())?,
            }],
            hash: hmac.hash,
            encoding: hmac.encoding,
            prefix: hmac.prefix.clone(),
            separator: hmac.separator.clone(),
            template,
            key_form: KeyForm::Bytes,
            tolerance: hmac.timestamp_header.as_ref().map(|_| hmac.tolerance.unwrap_or(TOLERANCE_DEFAULT)),
        })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The key of a secret.
    pub(super) fn key(&self, secret: &Secret) -> Result<Mac, &'static str> {
        let text = secret.value.expose_secret();
        let key = match self.key_form {
            KeyForm::Bytes => Mac::new(self.hash, text.as_bytes()),
            KeyForm::Whsec => {
                let bytes = BASE64_KEY.decode(text.strip_prefix("whsec_").unwrap_or(text)).map_err(
                    |_| "is not a Standard Webhooks secret: base64, with or without `whsec_` before it",
                )?;
                if bytes.is_empty() {
                    return Err("is empty after `whsec_`; a secret needs at least one byte");
                }
                Mac::new(self.hash, &bytes)
            }
        };
        key.ok_or("is no key")
    }

    /// A key that nobody has. What it signs is not looked at.
    pub(super) fn dummy(&self) -> Mac {
        let any = match self.hash {
            Hash::Sha1 => Mac::new(Hash::Sha1, &[0; 32]),
            Hash::Sha256 => Mac::new(Hash::Sha256, &[0; 32]),
            Hash::Sha512 => Mac::new(Hash::Sha512, &[0; 32]),
        };
        #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
        any.expect("HMAC takes keys of any length")
    }

    /// Reads the headers that the signature needs: each there once, as text.
    pub(super) fn read<'a>(&'a self, headers: &'a HeaderMap) -> Result<Signed<'a>, Refusal> {
        let present = self.sets.iter().find(|set| headers.contains_key(&set.signature));
        let Some(set) = present.or(self.sets.first()) else { return Err(Refusal::Wrong) };
        let mut all = Vec::with_capacity(3);
        let mut bytes = 0;
        let mut read = |name: &'a HeaderName| {
            let value = single(headers, name)?;
            bytes += name.as_str().len() + value.len();
            all.push((name, value));
            if bytes > SIGNATURE_HEADERS_BYTES_MAX { Err(Refusal::TooLong) } else { Ok(value) }
        };
        let signature = read(&set.signature)?;
        let id = set.id.as_ref().map(&mut read).transpose()?;
        let timestamp = set.timestamp.as_ref().map(&mut read).transpose()?;
        for part in &self.template {
            if let Part::Header(name) = part {
                read(name)?;
            }
        }
        Ok(Signed { signature, id, timestamp: set.timestamp.as_ref().zip(timestamp), all })
    }

    /// The signed time, if the scheme signs one, within its tolerance of now.
    pub(super) fn signed_at(&self, signed: &Signed<'_>, now_ms: i64) -> Result<Option<i64>, Refusal> {
        let Some((name, text)) = signed.timestamp else { return Ok(None) };
        let digits = (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let seconds: i64 =
            text.parse().ok().filter(|_| digits).ok_or_else(|| Refusal::Timestamp(name.clone()))?;
        if let Some(tolerance) = self.tolerance
            && now_ms.abs_diff(seconds * 1000) > tolerance.as_ms().unsigned_abs()
        {
            return Err(Refusal::Tolerance(tolerance.0.as_secs()));
        }
        Ok(Some(seconds))
    }

    /// The signatures that the request offers, decoded. What is not of the scheme's form is passed over.
    pub(super) fn candidates<'a>(&'a self, signed: &Signed<'a>) -> impl Iterator<Item = Tag> + 'a {
        let whole = signed.signature;
        let parts = self.separator.as_deref().map(|separator| whole.split(separator));
        let alone = self.separator.is_none().then_some(whole);
        parts
            .into_iter()
            .flatten()
            .chain(alone)
            .filter_map(|text| text.trim_matches(' ').strip_prefix(&self.prefix))
            .filter_map(|text| decode(self.encoding, text))
    }

    /// What a key gives for these headers and this body.
    pub(super) fn sign(&self, key: &Mac, signed: &Signed<'_>, body: &[u8]) -> Tag {
        key.sign(self.template.iter().map(|part| match part {
            Part::Text(text) => text.as_bytes(),
            Part::Id => signed.id.unwrap_or_default().as_bytes(),
            Part::Timestamp => signed.timestamp.map_or("", |(_, text)| text).as_bytes(),
            Part::Header(name) => signed.header(name).as_bytes(),
            Part::Body => body,
        }))
    }
}

impl HeaderSet {
    fn known(signature: &'static str, id_and_timestamp: Option<(&'static str, &'static str)>) -> Self {
        Self {
            signature: HeaderName::from_static(signature),
            id: id_and_timestamp.map(|(id, _)| HeaderName::from_static(id)),
            timestamp: id_and_timestamp.map(|(_, timestamp)| HeaderName::from_static(timestamp)),
        }
    }
}

/// The headers of one request that its signature needs.
pub(super) struct Signed<'a> {
    signature: &'a str,
    id: Option<&'a str>,
    timestamp: Option<(&'a HeaderName, &'a str)>,
    all: Vec<(&'a HeaderName, &'a str)>,
}

impl<'a> Signed<'a> {
    pub(super) fn id(&self) -> Option<&'a str> {
        self.id
    }

    pub(super) fn into_headers(self) -> Vec<(String, String)> {
        self.all.into_iter().map(|(name, value)| (name.as_str().to_owned(), value.to_owned())).collect()
    }

    fn header(&self, name: &HeaderName) -> &'a str {
        self.all.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| value)
    }
}

/// A header that must be there once, as text.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, Refusal> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| Refusal::Missing(name.clone()))?;
    if values.next().is_some() {
        return Err(Refusal::Repeated(name.clone()));
    }
    std::str::from_utf8(value.as_bytes()).map_err(|_| Refusal::NotText(name.clone()))
}

pub(super) fn header_name(key: &str, text: &str) -> Result<HeaderName, SetupError> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| SetupError::new(key, format!("`{text}` is not a header's name")))
}

fn no_tolerance(tolerance: Option<Span>, key: &str) -> Result<(), SetupError> {
    if tolerance.is_none() {
        return Ok(());
    }
    let message = "no time is signed, so none can be tolerated: remove it";
    Err(SetupError::new(format!("{key}.tolerance"), message))
}

fn decode(encoding: Encoding, text: &str) -> Option<Tag> {
    let mut bytes = [0; 72];
    let len = match encoding {
        Encoding::Hex => {
            let len = text.len() / 2;
            hex::decode_to_slice(text, bytes.get_mut(..len)?).ok().map(|()| len)
        }
        Encoding::Base64 => BASE64.decode_slice(text, &mut bytes).ok(),
        Encoding::Base64url => BASE64URL.decode_slice(text, &mut bytes).ok(),
    }?;
    (len <= 64).then(|| Tag::new(bytes.get(..len).unwrap_or_default()))
}

fn template(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, tail)) = rest.split_once('{') {
        let (name, after) = tail.split_once('}').ok_or("has a `{` without its `}`")?;
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        parts.push(match name.split_once(':') {
            Some(("header", header)) => Part::Header(
                HeaderName::from_bytes(header.as_bytes())
                    .map_err(|_| format!("{{header:{header}}} does not name a header"))?,
            ),
            _ => match name {
                "body" => Part::Body,
                "id" => Part::Id,
                "timestamp" => Part::Timestamp,
                _ => return Err(format!("has {{{name}}}, which stands for nothing")),
            },
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}
