//! The hooks that a filter may define.

use super::api;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Every request, before the cache.
    Request,
    /// Before each attempt at the origin.
    UpstreamRequest,
    /// The origin answered; what is edited here is stored.
    UpstreamResponse,
    /// Before the response's headers go to the client.
    Response,
    /// No usable response.
    Error,
    /// After the last byte.
    Log,
    /// By the filter's schedule; there is no request.
    Schedule,
}

impl Hook {
    pub const ALL: [Self; 7] = [
        Self::Request,
        Self::UpstreamRequest,
        Self::UpstreamResponse,
        Self::Response,
        Self::Error,
        Self::Log,
        Self::Schedule,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "on_request",
            Self::UpstreamRequest => "on_upstream_request",
            Self::UpstreamResponse => "on_upstream_response",
            Self::Response => "on_response",
            Self::Error => "on_error",
            Self::Log => "on_log",
            Self::Schedule => "on_schedule",
        }
    }

    /// The parameters, as the reference names them.
    pub fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Request | Self::UpstreamRequest => &["req"],
            Self::UpstreamResponse | Self::Response => &["res", "req"],
            Self::Error => &["err", "req"],
            Self::Log => &["req", "res"],
            Self::Schedule => &["ev"],
        }
    }

    pub fn signature(self) -> String {
        format!("{}({})", self.name(), self.parameters().join(", "))
    }

    pub(super) fn arguments(self, state: &api::Objects) -> Vec<rhai::Dynamic> {
        let (req, res) = (state.request(), state.response());
        match self {
            Self::Request | Self::UpstreamRequest => vec![req],
            Self::UpstreamResponse | Self::Response => vec![res, req],
            Self::Error => vec![state.error(), req],
            Self::Log => vec![req, res],
            Self::Schedule => vec![state.event()],
        }
    }
}
