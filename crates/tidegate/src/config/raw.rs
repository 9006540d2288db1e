//! The configuration as it was written: values with their places, and the tables of all keys and
//! variables there are.
//!
//! A tree of our own stands here instead of structs with serde's `deny_unknown_fields`: serde stops
//! at the first mistake and forgets the lines of what it took, and a whole list of mistakes with
//! places, over three sources, is what `tidegate check` is for. What values mean: `read.rs`.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem};

/// The name of every variable begins with this.
pub(super) const VARIABLE_PREFIX: &str = "TIDEGATE_";

/// Every section and its keys. Those with `[[…]]` in the file are at the end, see [`REPEATED`].
pub(super) const SECTIONS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "listen",
            "admin",
            "workers",
            "drain",
            "log",
            "broker",
            "tls",
            "http",
            "websocket",
            "grpc",
            "auth",
            "channel",
            "limit",
            "route",
        ],
    ),
    ("log", &["format", "level"]),
    ("broker", &["url", "max_bytes", "key_window"]),
    ("tls", &["certificate", "key"]),
    (
        "http",
        &[
            "prefix",
            "max_body",
            "max_url",
            "max_head",
            "body_timeout",
            "header_timeout",
            "idle_timeout",
            "max_connections",
            "max_outbox",
            "origins",
            "trusted_proxies",
            "proxy_protocol",
        ],
    ),
    ("websocket", &["max_message", "max_fragments", "ping_interval", "ping_timeout", "deflate"]),
    ("grpc", &["max_message"]),
    ("auth", &["keys", "jwks", "issuer", "audience", "leeway", "claim", "api_keys"]),
    ("channel", &["match", "subscribe", "publish", "log", "outbox", "presence", "class"]),
    ("channel.log", &["messages", "bytes", "age"]),
    ("channel.outbox", &["messages", "bytes", "policy"]),
];

/// Sections that are written `[[…]]`, and so have no variables.
const REPEATED: &[&str] = &["channel", "limit", "route"];
/// Keys of other sections that have no variable either: lists of tables.
const WITHOUT_VARIABLE: &[&str] = &["auth.keys", "auth.api_keys"];

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What was written, untyped but for what TOML says.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    /// What an `i64` can't hold is [`Value::Number`].
    Integer(i64),
    /// Any other number, as written.
    Number(String),
    Boolean(bool),
    Date(String),
    List(Vec<Written>),
    Table(Table),
    /// From a variable or a flag: whoever reads it says what it is.
    Plain(String),
}

/// Keys with their places and values, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(pub(super) Vec<Entry>);

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// The key's; the value's may be lines below.
    pub(super) place: Place,
    pub(super) written: Written,
}

impl Table {
    /// Reads TOML. Where that has mistakes, they are all that is told: what stands around them may
    /// be misread.
    pub(super) fn parse(path: &Path, input: &[u8]) -> Result<Self, Vec<Problem>> {
        let source = Source { path, input };
        let text = std::str::from_utf8(input).map_err(|error| {
            let place = source.place(error.valid_up_to());
            vec![Problem {
                place,
                key: None,
                message: "is no UTF-8; allowed is TOML in UTF-8".to_owned(),
            }]
        })?;
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(source.table(table.get_ref()));
        }
        let problem = |error: &toml::de::Error| Problem {
            place: source.place(error.span().map_or(0, |span| span.start)),
            key: None,
            message: format!("is no TOML: {}", error.message().replace('\n', ", ")),
        };
        Err(errors.iter().map(problem).collect())
    }

    pub(super) fn find(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }
}

impl Value {
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Plain(text) => Some(text),
            _ => None,
        }
    }

    /// What a size or a duration may be written as, as text.
    pub(super) fn as_number_or_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) | Self::Plain(text) | Self::Number(text) => Some(text.into()),
            Self::Integer(number) => Some(number.to_string().into()),
            _ => None,
        }
    }
}

/// As messages show it: the beginning of "… is no size".
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Plain(text) => write!(f, "{text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Number(text) | Self::Date(text) => f.write_str(text),
            Self::Boolean(it) => write!(f, "{it}"),
            Self::List(_) => f.write_str("a list"),
            Self::Table(_) => f.write_str("a table"),
        }
    }
}

/// Every variable with the key that it stands for.
pub(super) fn variables() -> impl Iterator<Item = (String, String)> {
    SECTIONS
        .iter()
        .filter(|(section, _)| !REPEATED.iter().any(|it| section.split('.').next() == Some(it)))
        .flat_map(|(section, keys)| keys.iter().map(|key| dotted(section, key)))
        .filter(|key| {
            !is_section(key)
                && !REPEATED.contains(&key.as_str())
                && !WITHOUT_VARIABLE.contains(&key.as_str())
        })
        .map(|key| {
            let name = key.replace('.', "__").to_ascii_uppercase();
            (format!("{VARIABLE_PREFIX}{name}"), key)
        })
}

/// The key that is most like `key` of `section`: by its last name, and of the same section if it
/// is no less alike.
pub(super) fn nearest_key(section: &str, key: &str) -> Option<String> {
    // What is right but in the wrong section is further away than a slip within the right one.
    const SAME_SECTION: f64 = 0.3;
    let score = |place: &str, it: &str| {
        let near = if place == section { SAME_SECTION } else { 0.0 };
        strsim::normalized_damerau_levenshtein(it, key) + near
    };
    SECTIONS
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| (*section, *key)))
        // Of several that are as near, the first.
        .rev()
        .max_by(|a, b| score(a.0, a.1).total_cmp(&score(b.0, b.1)))
        .map(|(section, key)| dotted(section, key))
}

/// The variable that is most like `name`.
pub(super) fn nearest_variable(name: &str) -> Option<String> {
    let name = name.to_ascii_uppercase();
    let score = |it: &str| strsim::normalized_damerau_levenshtein(it, &name);
    variables().map(|(name, _)| name).max_by(|a, b| score(a).total_cmp(&score(b)))
}

/// `section.key`, or `key` at the top.
pub(super) fn dotted(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

fn is_section(key: &str) -> bool {
    SECTIONS.iter().any(|(section, _)| *section == key)
}

/// A file that is being read.
struct Source<'a> {
    path: &'a Path,
    input: &'a [u8],
}

impl Source<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.input.get(..offset).unwrap_or(self.input);
        let line = 1 + before.iter().filter(|it| **it == b'\n').count();
        Place::Line(self.path.to_owned(), line)
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let entry = |(key, value): (&toml::Spanned<Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
            let (key_at, value_at) = (key.span(), value.span());
            let written = self.written(value.get_ref(), value_at);
            Entry { key: key.get_ref().to_string(), place: self.place(key_at.start), written }
        };
        Table(entries.into_iter().map(entry).collect())
    }

    fn written(&self, value: &DeValue<'_>, span: Range<usize>) -> Written {
        let value = match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| Value::Number(number.as_str().to_owned()), Value::Integer),
            DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
            DeValue::Boolean(it) => Value::Boolean(*it),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|it| self.written(it.get_ref(), it.span())).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Written { place: self.place(span.start), value }
    }
}
