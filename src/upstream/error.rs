//! Why an upstream of the configuration cannot be used.

use std::sync::Arc;

/// A pool that cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("upstream `{upstream}`: {what}")]
pub struct UpstreamError {
    pub upstream: Arc<str>,
    pub what: String,
}
