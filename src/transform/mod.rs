//! Bodies that change as they stream by: stages, each of which takes pieces and gives pieces.
//!
//! Pure: it knows no HTTP message, no script and no proxy. What comes out never depends on where
//! the pieces were cut, and what a stage holds back has a named bound.

mod affix;
mod body;
mod chunks;
mod coding;
mod error;
mod events;
mod html;
mod json;
mod lines;
mod message;
mod pipeline;
mod regex;
#[cfg(test)]
mod tests;
mod text;

pub use affix::{Append, Prepend};
pub use body::Body;
pub use chunks::{Chunks, OnChunk};
pub use coding::Coding;
pub use error::Error;
pub use events::{Event, Events, OnEvent};
pub use html::{Element, Html, HtmlError, Markup, OnElement, OnText, Place, Rule};
pub use json::{Document, Json, OnJson, Value};
pub use lines::{Lines, OnLine};
pub use message::{Fit, Obstacle, ask, fit};
pub use pipeline::{Pipeline, Stage};
pub use regex::{Groups, OnMatch, RegexError, ReplaceRegex, Replacement};
pub use text::ReplaceText;

/// What a callback decided about what it was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<T> {
    /// It stays, byte for byte.
    Keep,
    Replace(T),
    Drop,
}

/// What a callback fails with; the stage fails with it.
pub type CallbackError = Box<dyn std::error::Error + Send + Sync>;
