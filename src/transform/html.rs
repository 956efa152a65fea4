//! HTML, rewritten by selectors as it streams by.
//!
//! `lol_html` shows text in fragments; here a text node is shown whole.

use std::borrow::Cow;
use std::sync::Arc;

use lol_html::html_content::{ContentType, TextChunk, TextType};
use lol_html::send::{ElementContentHandlers, HtmlRewriter, Settings};
use lol_html::{AsciiCompatibleEncoding, MemorySettings, Selector};
use parking_lot::Mutex;

use super::{CallbackError, Error, Stage, Verdict};

/// Bytes that the parser may hold: a tag that is longer, with its attributes, is an error, and so
/// is nesting that needs more to be remembered.
const PARSER_MEMORY: usize = 2 << 20;
/// Bytes of a text node that is shown to a callback.
const TEXT_NODE: usize = 1 << 20;
/// Selectors of one rewriter.
const RULES: usize = 256;

pub type OnElement = Box<dyn FnMut(Element) -> Result<Element, CallbackError> + Send>;
/// Is shown text without character references, and gives such text.
pub type OnText = Box<dyn FnMut(&str) -> Result<Verdict<String>, CallbackError> + Send>;

pub enum Rule {
    Element(String, OnElement),
    Text(String, OnText),
}

/// An element as a callback sees it; edits are made to the real one afterwards.
#[derive(Debug, Clone, Default)]
pub struct Element {
    /// In lower case.
    pub tag: String,
    /// Names in lower case, values as they are written between the quotes.
    pub attributes: Vec<(String, String)>,
    edits: Vec<Edit>,
}

#[derive(Debug, Clone)]
enum Edit {
    SetAttribute(String, String),
    RemoveAttribute(String),
    Insert(Place, Markup),
    Remove,
    Unwrap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Before,
    Prepend,
    Inner,
    Append,
    After,
}

/// What is put into a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Markup {
    /// Escaped.
    Text(String),
    Html(String),
}

/// Why a rewriter cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum HtmlError {
    #[error("\"{0}\" is not a selector: {1}")]
    Selector(String, String),
    #[error("a rewriter has at most {RULES} selectors")]
    TooMany,
    #[error("HTML in {0} cannot be rewritten")]
    Charset(String),
    #[error("\"{0}\" is not the name of an attribute")]
    AttributeName(String),
}

impl Element {
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn set_attribute(&mut self, name: &str, value: &str) -> Result<(), HtmlError> {
        let forbidden =
            |c: char| c.is_ascii_whitespace() || c.is_control() || "/>=\"'<".contains(c);
        if name.is_empty() || name.contains(forbidden) {
            return Err(HtmlError::AttributeName(name.to_owned()));
        }
        let name = name.to_ascii_lowercase();
        match self.attributes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => value.clone_into(known),
            None => self.attributes.push((name.clone(), value.to_owned())),
        }
        self.edits.push(Edit::SetAttribute(name, value.to_owned()));
        Ok(())
    }

    pub fn remove_attribute(&mut self, name: &str) {
        self.attributes.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.edits.push(Edit::RemoveAttribute(name.to_ascii_lowercase()));
    }

    pub fn insert(&mut self, place: Place, markup: Markup) {
        self.edits.push(Edit::Insert(place, markup));
    }

    /// With all that is in it.
    pub fn remove(&mut self) {
        self.edits.push(Edit::Remove);
    }

    /// The tags go, and what is between them stays.
    pub fn unwrap(&mut self) {
        self.edits.push(Edit::Unwrap);
    }
}

impl Rule {
    /// A selector that can be used, with what it selects for.
    pub fn check(selector: &str) -> Result<(), HtmlError> {
        parse(selector).map(drop)
    }
}

fn parse(selector: &str) -> Result<Selector, HtmlError> {
    let parsed = selector.parse();
    parsed.map_err(|error: lol_html::errors::SelectorError| {
        HtmlError::Selector(selector.to_owned(), error.to_string())
    })
}

/// Rewrites by rules, in their order.
pub struct Html {
    /// None after its end, or an error.
    rewriter: Option<HtmlRewriter<'static, Sink>>,
    out: Arc<Mutex<Vec<u8>>>,
}

type Sink = Box<dyn FnMut(&[u8]) + Send>;

impl Html {
    /// For a document in `charset`, UTF-8 if none is named.
    pub fn new(rules: Vec<Rule>, charset: Option<&str>) -> Result<Self, HtmlError> {
        if rules.len() > RULES {
            return Err(HtmlError::TooMany);
        }
        let name = charset.unwrap_or("utf-8");
        let encoding = encoding_rs::Encoding::for_label_no_replacement(name.as_bytes());
        let encoding = encoding.and_then(AsciiCompatibleEncoding::new);
        let encoding = encoding.ok_or_else(|| HtmlError::Charset(name.to_owned()))?;
        let memory = MemorySettings::new()
            .with_preallocated_parsing_buffer_size(1 << 10)
            .with_max_allowed_memory_usage(PARSER_MEMORY);
        let mut settings = Settings::new_send()
            .with_encoding(encoding)
            .with_memory_settings(memory)
            // A page that a browser takes is no fault of the filter.
            .with_strict(false);
        for rule in rules {
            settings = settings.append_element_content_handler(handler(rule)?);
        }
        let out = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&out);
        let sink: Sink = Box::new(move |piece| to.lock().extend_from_slice(piece));
        Ok(Self { rewriter: Some(HtmlRewriter::new(settings, sink)), out })
    }
}

type Handler = (Cow<'static, Selector>, ElementContentHandlers<'static>);

fn handler(rule: Rule) -> Result<Handler, HtmlError> {
    let handlers = ElementContentHandlers::default();
    Ok(match rule {
        Rule::Element(selector, mut callback) => {
            let handlers = handlers.element(move |real: &mut lol_html::send::Element<'_, '_>| {
                let attributes = real.attributes().iter().map(|a| (a.name(), a.value()));
                let (tag, attributes) = (real.tag_name(), attributes.collect());
                let seen = Element { tag, attributes, edits: Vec::new() };
                apply(callback(seen)?.edits, real)
            });
            (Cow::Owned(parse(&selector)?), handlers)
        }
        Rule::Text(selector, callback) => {
            let mut node = TextNode { held: String::new(), callback };
            let handlers = handlers.text(move |chunk: &mut TextChunk<'_>| node.take(chunk));
            (Cow::Owned(parse(&selector)?), handlers)
        }
    })
}

fn apply(
    edits: Vec<Edit>,
    real: &mut lol_html::send::Element<'_, '_>,
) -> Result<(), CallbackError> {
    for edit in edits {
        match edit {
            Edit::SetAttribute(name, value) => real.set_attribute(&name, &value)?,
            Edit::RemoveAttribute(name) => real.remove_attribute(&name),
            Edit::Remove => real.remove(),
            Edit::Unwrap => real.remove_and_keep_content(),
            Edit::Insert(place, markup) => {
                let (content, kind) = match &markup {
                    Markup::Text(text) => (text, ContentType::Text),
                    Markup::Html(html) => (html, ContentType::Html),
                };
                match place {
                    Place::Before => real.before(content, kind),
                    Place::Prepend => real.prepend(content, kind),
                    Place::Inner => real.set_inner_content(content, kind),
                    Place::Append => real.append(content, kind),
                    Place::After => real.after(content, kind),
                }
            }
        }
    }
    Ok(())
}

/// Collects a text node's fragments.
struct TextNode {
    held: String,
    callback: OnText,
}

impl TextNode {
    fn take(&mut self, chunk: &mut TextChunk<'_>) -> Result<(), CallbackError> {
        self.held.push_str(chunk.as_str());
        if self.held.len() > TEXT_NODE {
            return Err(Error::TooLong { what: "a text node", most: TEXT_NODE }.into());
        }
        if !chunk.last_in_text_node() {
            chunk.remove();
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Ok(());
        }
        let escapes = matches!(chunk.text_type(), TextType::Data | TextType::RCData);
        let shown =
            if escapes { html_escape::decode_html_entities(&held) } else { Cow::Borrowed(&*held) };
        match (self.callback)(&shown)? {
            Verdict::Keep => chunk.replace(&held, ContentType::Html),
            Verdict::Replace(new) if escapes => chunk.replace(&new, ContentType::Text),
            Verdict::Replace(new) => {
                // Nothing can be escaped here, so what would end the element is refused.
                if new.contains("</") || new.contains("<!--") {
                    let why = "text in a script or a style holds neither \"</\" nor \"<!--\"";
                    return Err(Error::Html(why.into()).into());
                }
                chunk.replace(&new, ContentType::Html);
            }
            Verdict::Drop => chunk.remove(),
        }
        Ok(())
    }
}

fn failed(error: lol_html::errors::RewritingError) -> Error {
    use lol_html::errors::RewritingError;
    match error {
        RewritingError::ContentHandlerError(error) => match error.downcast::<Error>() {
            Ok(error) => *error,
            Err(error) => Error::Callback(error),
        },
        RewritingError::MemoryLimitExceeded(_) => {
            Error::TooLong { what: "a tag or a nesting", most: PARSER_MEMORY }
        }
        other => Error::Html(other.to_string()),
    }
}

impl Stage for Html {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        // After an error it would panic.
        let Some(mut rewriter) = self.rewriter.take() else { return Ok(()) };
        let written = rewriter.write(piece);
        out.append(&mut self.out.lock());
        written.map_err(failed)?;
        self.rewriter = Some(rewriter);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let ended = self.rewriter.take().map_or(Ok(()), HtmlRewriter::end);
        out.append(&mut self.out.lock());
        ended.map_err(failed)
    }
}
