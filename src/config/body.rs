//! `body` of a filter: whether it sees bodies, and how much of them the proxy holds for it.

use super::problem::Problems;
use super::read::{At, choice, section};
use super::values::{Bytes, show_size};

/// What a filter may do with bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyAccess {
    pub request: BodyMode,
    pub response: BodyMode,
    /// Bytes of one body that is held, as it came and decoded.
    pub limit: usize,
}

/// How a filter sees a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyMode {
    /// It streams past.
    #[default]
    None,
    /// It is read whole before the filter runs.
    Buffer,
}

impl BodyAccess {
    /// Bytes of a held body where the configuration says nothing.
    pub const LIMIT: usize = 1 << 20;
    pub const NONE: Self =
        Self { request: BodyMode::None, response: BodyMode::None, limit: Self::LIMIT };
}

section! {
    /// Bodies that the proxy holds for this filter. Without it none is held, and all stream past.
    pub struct RawBodyAccess as "body" {
        /// `buffer`: the request's body is read before the filter runs, and `req.body` is there.
        request: BodyMode = "none",
        /// `buffer`: the response is collected before `on_response` runs, and `res.body` is there.
        response: BodyMode = "none",
        /// The largest body that is held, 1MiB if left out. A larger request gets 413 before the
        /// origin is asked; a larger response is a fault of the filter.
        limit: Option<At<Bytes>>,
    }
}

choice!(BodyMode { "none" => BodyMode::None, "buffer" => BodyMode::Buffer });

pub fn resolve(raw: RawBodyAccess, problems: &mut Problems) -> BodyAccess {
    let access = BodyAccess { request: raw.request, response: raw.response, ..BodyAccess::NONE };
    let Some(limit) = raw.limit else { return access };
    if access == BodyAccess::NONE {
        let message = "limit has an effect with request: buffer or response: buffer only";
        limit.problem(problems, message, None);
    }
    if limit.value.0 == 0 {
        limit.problem(problems, "0 would refuse every body", None);
    }
    BodyAccess { limit: usize::try_from(limit.value.0).unwrap_or(usize::MAX), ..access }
}

/// A filter's limit that the whole process does not reach.
pub fn check_total(limit: usize, total: &At<Bytes>, filter: &str, problems: &mut Problems) {
    if limit as u64 > total.value.0 {
        let limit = show_size(limit as u64);
        let message = format!("filter \"{filter}\" may hold {limit} of one body, which is more");
        total.problem(problems, message, None);
    }
}
