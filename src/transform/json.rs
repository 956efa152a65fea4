//! One JSON document, edited in place: what is not touched stays as it was written.
//!
//! A document is text until somebody looks inside: then one level of it becomes members, whose own
//! insides are still text. So keys keep their order, numbers all their digits, and a large document
//! of which one field changes costs little more than its text.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{CallbackError, Error, Stage, Verdict};

/// Bytes of a document.
const DOCUMENT: usize = 4 << 20;
/// Levels that can be looked into.
const DEPTH: usize = 128;

/// A value of a document; copies are the same value.
#[derive(Clone)]
pub struct Value {
    node: Arc<Mutex<Node>>,
    depth: usize,
}

enum Node {
    Text(Box<RawValue>),
    Array(Vec<Value>),
    Object(Vec<(String, Value)>),
}

/// What kind of value it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Digits that no number of 64 bits holds.
    Big,
    Text(String),
    Array,
    Object,
}

impl Value {
    pub fn parse(text: &str) -> Result<Self, String> {
        let raw: Box<RawValue> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok(Self::at(raw, 0))
    }

    fn at(raw: Box<RawValue>, depth: usize) -> Self {
        Self { node: Arc::new(Mutex::new(Node::Text(raw))), depth }
    }

    /// The same place of the same document.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.node, &other.node)
    }

    pub fn kind(&self) -> Document {
        let node = self.node.lock();
        let text = match &*node {
            Node::Array(_) => return Document::Array,
            Node::Object(_) => return Document::Object,
            Node::Text(raw) => raw.get().trim(),
        };
        match text.as_bytes().first() {
            Some(b'[') => Document::Array,
            Some(b'{') => Document::Object,
            Some(b'"') => Document::Text(serde_json::from_str(text).unwrap_or_default()),
            Some(b't') => Document::Bool(true),
            Some(b'f') => Document::Bool(false),
            Some(b'n') | None => Document::Null,
            Some(_) => number(text),
        }
    }

    /// One level of it, as members rather than text.
    fn open<R>(&self, read: impl FnOnce(&mut Node) -> R) -> Result<R, String> {
        let node = &mut *self.node.lock();
        if let Node::Text(raw) = node {
            if self.depth >= DEPTH {
                return Err(format!("nested more than {DEPTH} deep"));
            }
            let depth = self.depth + 1;
            let below = |raw| Self::at(raw, depth);
            let text = raw.get();
            match text.trim_start().as_bytes().first() {
                Some(b'[') => {
                    let items: Vec<Box<RawValue>> =
                        serde_json::from_str(text).map_err(|error| error.to_string())?;
                    *node = Node::Array(items.into_iter().map(below).collect());
                }
                Some(b'{') => {
                    let Members(members) =
                        serde_json::from_str(text).map_err(|error| error.to_string())?;
                    let members = members.into_iter().map(|(name, raw)| (name, below(raw)));
                    *node = Node::Object(members.collect());
                }
                _ => {}
            }
        }
        Ok(read(node))
    }

    /// Of a name that stands there twice, the last counts, as everywhere.
    pub fn get(&self, name: &str) -> Result<Option<Self>, String> {
        self.open(|node| match node {
            Node::Object(members) => {
                members.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.clone())
            }
            _ => None,
        })
    }

    /// Counted from 0; from the end when it is negative.
    pub fn item(&self, index: i64) -> Result<Option<Self>, String> {
        self.open(|node| match node {
            Node::Array(items) => place(items.len(), index).map(|index| items[index].clone()),
            _ => None,
        })
    }

    pub fn items(&self) -> Result<Vec<Self>, String> {
        self.open(|node| match node {
            Node::Array(items) => items.clone(),
            Node::Object(members) => members.iter().map(|(_, value)| value.clone()).collect(),
            Node::Text(_) => Vec::new(),
        })
    }

    pub fn keys(&self) -> Result<Vec<String>, String> {
        self.open(|node| match node {
            Node::Object(members) => members.iter().map(|(name, _)| name.clone()).collect(),
            _ => Vec::new(),
        })
    }

    /// Sets a member where it stands, or behind the others.
    pub fn set(&self, name: &str, text: &str) -> Result<(), String> {
        let value = self.below(text)?;
        self.open(|node| match node {
            Node::Object(members) => {
                match members.iter_mut().rfind(|(known, _)| known == name) {
                    Some((_, old)) => *old = value,
                    None => members.push((name.to_owned(), value)),
                }
                Ok(())
            }
            _ => Err("only an object has names".to_owned()),
        })?
    }

    pub fn set_item(&self, index: i64, text: &str) -> Result<(), String> {
        let value = self.below(text)?;
        self.open(|node| match node {
            Node::Array(items) => {
                let index = place(items.len(), index).ok_or("there is no such item")?;
                items[index] = value;
                Ok(())
            }
            _ => Err("only an array has items".to_owned()),
        })?
    }

    pub fn push(&self, text: &str) -> Result<(), String> {
        let value = self.below(text)?;
        self.open(|node| match node {
            Node::Array(items) => {
                items.push(value);
                Ok(())
            }
            _ => Err("only an array can be added to".to_owned()),
        })?
    }

    /// Whether it was there.
    pub fn remove(&self, name: &str) -> Result<bool, String> {
        self.open(|node| match node {
            Node::Object(members) => {
                let before = members.len();
                members.retain(|(known, _)| known != name);
                members.len() < before
            }
            _ => false,
        })
    }

    pub fn remove_item(&self, index: i64) -> Result<bool, String> {
        self.open(|node| match node {
            Node::Array(items) => {
                let found = place(items.len(), index);
                found.map(|index| items.remove(index)).is_some()
            }
            _ => false,
        })
    }

    /// A copy, so that no value ever holds itself.
    fn below(&self, text: &str) -> Result<Self, String> {
        let raw: Box<RawValue> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok(Self::at(raw, self.depth + 1))
    }

    fn write(&self, out: &mut String) {
        match &*self.node.lock() {
            Node::Text(raw) => out.push_str(raw.get()),
            Node::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Node::Object(members) => {
                out.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    out.push_str(&serde_json::Value::from(name.as_str()).to_string());
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text);
        f.write_str(&text)
    }
}

fn number(text: &str) -> Document {
    if let Ok(int) = text.parse() {
        return Document::Int(int);
    }
    let whole = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    match text.parse::<f64>() {
        Ok(float) if !whole && float.is_finite() => Document::Float(float),
        _ => Document::Big,
    }
}

fn place(length: usize, index: i64) -> Option<usize> {
    let index = match usize::try_from(index) {
        Ok(index) => index,
        Err(_) => length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
    };
    (index < length).then_some(index)
}

/// An object's members in their order.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(InOrder)
    }
}

/// Is shown the document, or why the body is none; gives the text in its place.
pub type OnJson =
    Box<dyn FnMut(Result<Value, String>) -> Result<Verdict<String>, CallbackError> + Send>;

/// A callback on a body that is one document. It has to be held whole.
pub struct Json {
    callback: OnJson,
    held: Vec<u8>,
}

impl Json {
    pub fn new(callback: OnJson) -> Self {
        Self { callback, held: Vec::new() }
    }
}

impl Stage for Json {
    fn push(&mut self, piece: &[u8], _: &mut Vec<u8>) -> Result<(), Error> {
        self.held.extend_from_slice(piece);
        match self.held.len() {
            0..=DOCUMENT => Ok(()),
            _ => Err(Error::TooLong { what: "a JSON document", most: DOCUMENT }),
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let held = std::mem::take(&mut self.held);
        let text = std::str::from_utf8(&held).map_err(|error| error.to_string());
        let parsed = text.and_then(Value::parse);
        match (self.callback)(parsed).map_err(Error::Callback)? {
            Verdict::Keep => out.extend_from_slice(&held),
            Verdict::Replace(new) => out.extend_from_slice(new.as_bytes()),
            Verdict::Drop => {}
        }
        Ok(())
    }
}
