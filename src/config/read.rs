//! Reading typed values off the tree: one declaration gives parsing, default, documentation and schema.

use serde_yaml::Value;

use super::problem::{Pos, Problems, nearest};
use super::yaml::{Kind, Node};

/// A value that a configuration can hold.
pub trait Read: Sized {
    /// `None` after a problem was added.
    fn read(node: &Node, cx: &mut Reader<'_>) -> Option<Self>;

    /// The value when its key is not given; `None` makes the key required.
    fn absent() -> Option<Self> {
        None
    }

    fn schema() -> Schema;

    /// Back to YAML, for the effective configuration.
    fn show(&self) -> Value;
}

/// What a value may look like: the source of the JSON Schema and of the reference.
#[derive(Debug, Clone)]
pub enum Schema {
    /// A single value: its name in the reference and the JSON types it may have.
    Leaf {
        name: &'static str,
        json: &'static [&'static str],
    },
    Choice(&'static [&'static str]),
    Seq(Box<Schema>),
    /// Names chosen by the user.
    Named(Box<Schema>),
    Section {
        name: &'static str,
        doc: String,
        fields: Vec<Field>,
    },
    Any,
}

#[derive(Debug, Clone)]
pub struct Field {
    pub name: &'static str,
    pub doc: String,
    pub default: Option<&'static str>,
    pub required: bool,
    pub schema: Schema,
}

/// Where the reader is, and what it found wrong so far.
pub struct Reader<'p> {
    pub problems: &'p mut Problems,
    path: String,
}

impl<'p> Reader<'p> {
    pub fn new(problems: &'p mut Problems) -> Self {
        Self { problems, path: String::new() }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn problem(&mut self, at: Pos, message: impl Into<String>, hint: Option<String>) {
        self.problems.add(at, &self.path, message, hint);
    }

    /// Reads something below the current key.
    pub fn below<T>(&mut self, step: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if !self.path.is_empty() && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        let value = read(self);
        self.path.truncate(length);
        value
    }

    pub fn expected(&mut self, node: &Node, what: &str) {
        let message = match &node.kind {
            Kind::Refused => return,
            Kind::Scalar { text, .. } if !node.is_null() => {
                format!("expected {what}, found \"{text}\"")
            }
            _ => format!("expected {what}, found {}", node.describe()),
        };
        self.problem(node.at, message, None);
    }

    /// The mapping's entries, after keys that nobody knows became problems.
    pub fn section<'n>(
        &mut self,
        node: &'n Node,
        known: &[&str],
    ) -> Option<&'n [(super::yaml::Key, Node)]> {
        let Kind::Map(entries) = &node.kind else {
            self.expected(node, &format!("a mapping with keys {}", known.join(", ")));
            return None;
        };
        for (key, _) in entries {
            if !known.contains(&key.text.as_str()) {
                let hint = nearest(&key.text, known.iter().copied());
                self.problem(key.at, format!("unknown key \"{}\"", key.text), hint);
            }
        }
        Some(entries)
    }
}

/// A value with its place, for what can be judged only later.
#[derive(Debug, Clone)]
pub struct At<T> {
    pub value: T,
    pub at: Pos,
    pub path: String,
}

impl<T> At<T> {
    /// Adds a problem at this value's place.
    pub fn problem(
        &self,
        problems: &mut Problems,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        problems.add(self.at, &self.path, message, hint);
    }
}

impl<T: Read> Read for At<T> {
    fn read(node: &Node, cx: &mut Reader<'_>) -> Option<Self> {
        let value = T::read(node, cx)?;
        Some(Self { value, at: node.at, path: cx.path().to_owned() })
    }
    fn schema() -> Schema {
        T::schema()
    }
    fn show(&self) -> Value {
        self.value.show()
    }
}

impl<T: Read> Read for Option<T> {
    fn read(node: &Node, cx: &mut Reader<'_>) -> Option<Self> {
        T::read(node, cx).map(Some)
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
    fn schema() -> Schema {
        T::schema()
    }
    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, Read::show)
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(node: &Node, cx: &mut Reader<'_>) -> Option<Self> {
        let Kind::Seq(nodes) = &node.kind else {
            cx.expected(node, "a list");
            return None;
        };
        let items: Vec<Option<T>> = nodes
            .iter()
            .enumerate()
            .map(|(i, node)| cx.below(&format!("[{i}]"), |cx| T::read(node, cx)))
            .collect();
        items.into_iter().collect()
    }
    fn schema() -> Schema {
        Schema::Seq(Box::new(T::schema()))
    }
    fn show(&self) -> Value {
        Value::Sequence(self.iter().map(Read::show).collect())
    }
}

/// Entries under names that the user chose, in the order of the file.
#[derive(Debug, Clone)]
pub struct Named<T>(pub Vec<(At<String>, T)>);

impl<T> Named<T> {
    pub fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(known, _)| known.value == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.value.as_str())
    }
}

impl<T: Read> Read for Named<T> {
    fn read(node: &Node, cx: &mut Reader<'_>) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else {
            cx.expected(node, "a mapping from names");
            return None;
        };
        let mut named = Vec::with_capacity(entries.len());
        let mut complete = true;
        for (key, node) in entries {
            let value = cx.below(&key.text, |cx| {
                if let Err(message) = check_name(&key.text) {
                    cx.problem(key.at, message, None);
                }
                let name = At { value: key.text.clone(), at: key.at, path: cx.path().to_owned() };
                T::read(node, cx).map(|value| (name, value))
            });
            complete &= value.is_some();
            named.extend(value);
        }
        complete.then_some(Self(named))
    }
    fn schema() -> Schema {
        Schema::Named(Box::new(T::schema()))
    }
    fn show(&self) -> Value {
        let entries = self.0.iter().map(|(name, value)| (name.value.clone().into(), value.show()));
        Value::Mapping(entries.collect())
    }
}

/// Names become metric labels and log fields.
pub fn check_name(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(fine) {
        let name = name.chars().take(80).collect::<String>();
        return Err(format!("\"{name}\" is no name: letters, digits, `_`, `-`, `.`, at most 64"));
    }
    Ok(())
}

/// Declares a section: fields with documentation and, where they may be left out, a default in YAML.
///
/// An `Option` field without a default may be left out too.
macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident as $label:literal {
            $( $(#[doc = $fdoc:literal])* $field:ident : $ty:ty $(= $default:literal)? , )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone)]
        pub struct $name { $( $(#[doc = $fdoc])* pub $field: $ty, )* }

        impl $crate::config::read::Read for $name {
            fn read(
                node: &$crate::config::yaml::Node,
                cx: &mut $crate::config::read::Reader<'_>,
            ) -> Option<Self> {
                const KNOWN: &[&str] =
                    &[$($crate::config::read::key_name(stringify!($field))),*];
                let entries = cx.section(node, KNOWN)?;
                $(
                    let default: Option<&'static str> = None $(.or(Some($default)))?;
                    let $field = $crate::config::read::field::<$ty>(
                        node.at, entries, $crate::config::read::key_name(stringify!($field)),
                        default, cx,
                    );
                )*
                Some(Self { $($field: $field?),* })
            }
            fn schema() -> $crate::config::read::Schema {
                $crate::config::read::Schema::Section {
                    name: $label,
                    doc: [$($doc),*].concat().trim().to_owned(),
                    fields: vec![$({
                        let default: Option<&'static str> = None $(.or(Some($default)))?;
                        $crate::config::read::Field {
                            name: $crate::config::read::key_name(stringify!($field)),
                            doc: [$($fdoc),*].concat().trim().to_owned(),
                            default,
                            required: default.is_none()
                                && <$ty as $crate::config::read::Read>::absent().is_none(),
                            schema: <$ty as $crate::config::read::Read>::schema(),
                        }
                    }),*],
                }
            }
            fn show(&self) -> serde_yaml::Value {
                let mut shown = serde_yaml::Mapping::new();
                $(
                    let value = $crate::config::read::Read::show(&self.$field);
                    if !value.is_null() {
                        let key = $crate::config::read::key_name(stringify!($field));
                        shown.insert(key.into(), value);
                    }
                )*
                serde_yaml::Value::Mapping(shown)
            }
        }
    };
}
pub(crate) use section;

/// Declares an enum whose variants are written as single words.
macro_rules! choice {
    ($ty:ty { $($word:literal => $variant:path),* $(,)? }) => {
        impl $crate::config::read::Read for $ty {
            fn read(
                node: &$crate::config::yaml::Node,
                cx: &mut $crate::config::read::Reader<'_>,
            ) -> Option<Self> {
                match $crate::config::read::word(node, &[$($word),*], cx)? {
                    $($word => Some($variant),)*
                    _ => None,
                }
            }
            fn schema() -> $crate::config::read::Schema {
                $crate::config::read::Schema::Choice(&[$($word),*])
            }
            fn show(&self) -> serde_yaml::Value {
                match self { $($variant => $word.into(),)* }
            }
        }
    };
}
pub(crate) use choice;

/// `r#match` is written `match`.
pub const fn key_name(ident: &'static str) -> &'static str {
    match ident.as_bytes() {
        [b'r', b'#', ..] => ident.split_at(2).1,
        _ => ident,
    }
}

/// One key of a section: given, defaulted, or missing.
pub fn field<T: Read>(
    section: Pos,
    entries: &[(super::yaml::Key, Node)],
    name: &'static str,
    default: Option<&'static str>,
    cx: &mut Reader<'_>,
) -> Option<T> {
    let given = entries.iter().rev().find(|(key, _)| key.text == name);
    match given {
        Some((_, node)) => cx.below(name, |cx| T::read(node, cx)),
        None => match default {
            Some(text) => cx.below(name, |cx| {
                let node = super::yaml::parse(text, cx.problems)?;
                T::read(&Node { at: section, ..node }, cx)
            }),
            None => T::absent().or_else(|| {
                cx.problem(section, format!("the key \"{name}\" is missing"), None);
                None
            }),
        },
    }
}

/// A single word out of a closed set.
pub fn word<'n>(node: &'n Node, valid: &[&str], cx: &mut Reader<'_>) -> Option<&'n str> {
    let Kind::Scalar { text, .. } = &node.kind else {
        cx.expected(node, &format!("one of {}", valid.join(", ")));
        return None;
    };
    if valid.contains(&text.as_str()) {
        return Some(text);
    }
    cx.problem(node.at, format!("unknown value \"{text}\""), nearest(text, valid.iter().copied()));
    None
}
