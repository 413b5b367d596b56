//! What is to be read from a source's webhooks, prepared at start: which pointers one walk through the body
//! must collect, which headers are looked at, and what each event type's rule changes.

use http::HeaderName;
use shared::config::{ArrayBody, OrderConfig, SourceConfig, VerifyConfig, type_matches};
use shared::json::Pointers;
use shared::selector::Selector;

use crate::error::SetupError;

/// What is to be read from one source's webhooks.
#[derive(Debug)]
pub struct Plan {
    source: String,
    pointers: Pointers,
    id: Field,
    kind: Kind,
    connection: Option<Field>,
    base: Rule,
    rules: Vec<(Vec<String>, Rule)>,
    splits_arrays: bool,
}

/// One value's place.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) from: From,
    /// As the configuration writes it, for messages.
    pub(super) text: String,
}

/// Where a value is taken from.
#[derive(Clone, Debug)]
pub(super) enum From {
    /// What the walk through the body put into this slot.
    Body(usize),
    Header(HeaderName),
    BodySha256,
    Path,
    /// The id that the scheme signs.
    SignedId,
}

/// How the event's type is made.
#[derive(Debug)]
pub(super) enum Kind {
    /// Every event's is the same.
    Constant,
    /// A value.
    Field(Field),
    /// A value, then `.` and another one where that is there: `pull_request.opened`.
    FieldAndSuffix(Field, Field),
}

/// Entity and order for some event types.
#[derive(Clone, Debug)]
struct Rule {
    entity: Option<Field>,
    entity_prefix: String,
    order: &'static str,
    sequence: Option<Field>,
    ignored: bool,
}

/// The rule that holds for an event, by reference.
pub(super) struct RuleInForce<'p> {
    pub(super) entity: Option<&'p Field>,
    pub(super) entity_prefix: &'p str,
    /// What the sequence is called in messages.
    pub(super) order: &'static str,
    pub(super) sequence: Option<&'p Field>,
    /// Nothing of the event will be applied, so nothing of it has to be readable.
    pub(super) ignored: bool,
}

impl Plan {
    /// Prepares what a source's configuration asks for.
    ///
    /// # Errors
    /// A selector does not fit the scheme or its place.
    pub fn new(name: &str, source: &SourceConfig) -> Result<Self, SetupError> {
        let mut make = Maker { key: format!("sources.{name}"), pointers: Pointers::default() };
        let id = make.id(source)?;
        let kind = make.kind(source)?;
        let connection = source.connection.as_ref().map(|s| make.field("connection", s)).transpose()?;
        let base = make.rule(source.entity.as_ref(), &source.entity_prefix, &source.order)?;
        let mut rules = Vec::new();
        for rule in &source.rules {
            let mut made = make.rule(
                rule.entity.as_ref().or(source.entity.as_ref()),
                rule.entity_prefix.as_ref().unwrap_or(&source.entity_prefix),
                rule.order.as_ref().unwrap_or(&source.order),
            )?;
            made.ignored = rule.ignore;
            rules.push((rule.types.clone(), made));
        }
        let splits_arrays = source.array_body == ArrayBody::Split;
        Ok(Self {
            source: name.to_owned(),
            pointers: make.pointers,
            id,
            kind,
            connection,
            base,
            rules,
            splits_arrays,
        })
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn pointers(&self) -> &Pointers {
        &self.pointers
    }

    pub(super) fn id(&self) -> &Field {
        &self.id
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    pub(super) fn connection(&self) -> Option<&Field> {
        self.connection.as_ref()
    }

    pub(super) fn splits_arrays(&self) -> bool {
        self.splits_arrays
    }

    /// Whether the body must be JSON at all.
    pub(super) fn reads_body(&self) -> bool {
        self.splits_arrays || !self.pointers.is_empty()
    }

    /// What stands before the entity's id in events of a type.
    #[must_use]
    pub fn entity_prefix(&self, kind: &str) -> &str {
        self.rule(Some(kind)).entity_prefix
    }

    /// The first rule that matches the type, else the source's own. An unreadable type has no entity.
    pub(super) fn rule(&self, kind: Option<&str>) -> RuleInForce<'_> {
        let Some(kind) = kind else {
            return RuleInForce {
                entity: None,
                entity_prefix: "",
                order: "",
                sequence: None,
                ignored: false,
            };
        };
        let matches = |types: &[String]| types.iter().any(|pattern| type_matches(pattern, kind));
        let rule = self.rules.iter().find(|(types, _)| matches(types)).map_or(&self.base, |(_, rule)| rule);
        RuleInForce {
            entity: rule.entity.as_ref(),
            entity_prefix: &rule.entity_prefix,
            order: rule.order,
            sequence: rule.sequence.as_ref(),
            ignored: rule.ignored,
        }
    }
}

/// Collects the pointers while fields are made.
struct Maker {
    key: String,
    pointers: Pointers,
}

impl Maker {
    fn field(&mut self, what: &str, selector: &Selector) -> Result<Field, SetupError> {
        let from = match selector {
            Selector::Pointer(tokens) => From::Body(self.pointers.add(tokens)),
            Selector::Header(name) => {
                From::Header(HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                    SetupError::new(
                        format!("{}.{what}", self.key),
                        format!("`{name}` is not a header's name"),
                    )
                })?)
            }
            Selector::BodySha256 => From::BodySha256,
            Selector::Path if what == "connection" => From::Path,
            Selector::Path => {
                let key = format!("{}.{what}", self.key);
                return Err(SetupError::new(key, "\"path\" is only for `connection`"));
            }
        };
        Ok(Field { from, text: selector.to_string() })
    }

    fn id(&mut self, source: &SourceConfig) -> Result<Field, SetupError> {
        if let Some(selector) = &source.id {
            return self.field("id", selector);
        }
        match &source.verify {
            VerifyConfig::Standard(_) => {
                Ok(Field { from: From::SignedId, text: "header:webhook-id".to_owned() })
            }
            VerifyConfig::Github(_) => self.field("id", &Selector::Header("x-github-delivery".to_owned())),
            VerifyConfig::Hmac(_) => Err(SetupError::new(
                format!("{}.id", self.key),
                "the hmac scheme has no id of its own: set it",
            )),
        }
    }

    fn kind(&mut self, source: &SourceConfig) -> Result<Kind, SetupError> {
        if let Some(selector) = &source.kind {
            return Ok(Kind::Field(self.field("type", selector)?));
        }
        match &source.verify {
            VerifyConfig::Standard(_) => {
                Ok(Kind::Field(self.field("type", &Selector::Pointer(vec!["type".to_owned()]))?))
            }
            VerifyConfig::Github(_) => Ok(Kind::FieldAndSuffix(
                self.field("type", &Selector::Header("x-github-event".to_owned()))?,
                self.field("type", &Selector::Pointer(vec!["action".to_owned()]))?,
            )),
            VerifyConfig::Hmac(_) => Ok(Kind::Constant),
        }
    }

    fn rule(
        &mut self,
        entity: Option<&Selector>,
        prefix: &str,
        order: &OrderConfig,
    ) -> Result<Rule, SetupError> {
        let entity = entity.map(|selector| self.field("entity", selector)).transpose()?;
        let (order, sequence) = match order {
            OrderConfig::Arrival => ("", None),
            OrderConfig::Sequence(order) => ("sequence", Some(self.field("order.sequence.at", &order.at)?)),
            OrderConfig::Version(order) => ("version", Some(self.field("order.version.at", &order.at)?)),
        };
        Ok(Rule { entity, entity_prefix: prefix.to_owned(), order, sequence, ignored: false })
    }
}
