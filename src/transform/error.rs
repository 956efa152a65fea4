//! Why a body cannot be transformed any further.

use super::CallbackError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A bound was hit, rather than memory without end.
    #[error("{what} of more than {most} bytes")]
    TooLong { what: &'static str, most: usize },
    #[error("the HTML cannot be rewritten: {0}")]
    Html(String),
    #[error("the body is not the {coding} that its content-encoding says: {text}")]
    Coding { coding: &'static str, text: String },
    #[error(transparent)]
    Callback(CallbackError),
}
