//! Following redirects of a fetch: each step is checked and counted as a fetch of its own.

use http::{HeaderName, Method, StatusCode, Uri, header};

use super::fetch::{self, Fetched};
use super::state::State;
use crate::script::fault::text_of;
use crate::script::host::{FetchError, FetchErrorKind, FetchRequest, FetchResponse};

/// Redirects of one fetch.
const MOST: usize = 5;
/// What another origin does not get.
const PRIVATE: [HeaderName; 3] =
    [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION];

/// Goes on from a first response to the one that is no redirect.
pub async fn follow(state: State, mut request: FetchRequest, first: Fetched) -> Fetched {
    let mut response = first?;
    for _ in 0..MOST {
        let Some(next) = next(&state, request, &response)? else { return Ok(response) };
        request = next;
        response = fetch::start(&state, request.clone())?.await?;
    }
    match response.status.is_redirection() {
        true => Err(error(FetchErrorKind::Limit, format!("more than {MOST} redirects"))),
        false => Ok(response),
    }
}

fn error(kind: FetchErrorKind, message: String) -> FetchError {
    FetchError { kind, message }
}

/// The request that a response leads to, if any.
fn next(
    state: &State,
    mut request: FetchRequest,
    response: &FetchResponse,
) -> Result<Option<FetchRequest>, FetchError> {
    let redirects = matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers.get(header::LOCATION).filter(|_| redirects);
    let Some(location) = location else { return Ok(None) };
    let location = location.to_str().unwrap_or_default();
    let url = join(&request.url, location);
    let granted = fetch::granted(&state.facts().fetch, &url);
    // The author learns the kind; where the origin pointed is not for a client's eyes.
    let url = granted.map_err(|why| error(FetchErrorKind::Denied, text_of(&why)))?;
    // As browsers do: a form that was posted leads to a page.
    let turns = match response.status {
        StatusCode::SEE_OTHER => request.method != Method::HEAD,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => request.method == Method::POST,
        _ => false,
    };
    if turns {
        request.method = Method::GET;
        request.body.clear();
        request.headers.remove(header::CONTENT_TYPE);
    }
    if (url.scheme(), url.authority()) != (request.url.scheme(), request.url.authority()) {
        for name in &PRIVATE {
            request.headers.remove(name);
        }
    }
    request.url = url;
    Ok(Some(request))
}

/// A reference as in RFC 3986, 5.2, without dot segments, which servers resolve.
fn join(base: &Uri, reference: &str) -> String {
    let reference = reference.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str().unwrap_or("http");
    let authority = base.authority().map(ToString::to_string).unwrap_or_default();
    let colon = reference.find(':').unwrap_or(usize::MAX);
    if colon < reference.find(['/', '?']).unwrap_or(usize::MAX) {
        return reference.to_owned();
    }
    match reference {
        _ if reference.starts_with("//") => format!("{scheme}:{reference}"),
        _ if reference.starts_with('/') => format!("{scheme}://{authority}{reference}"),
        _ if reference.starts_with('?') => {
            format!("{scheme}://{authority}{}{reference}", base.path())
        }
        "" => base.to_string(),
        _ => {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{reference}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_joined_to_their_base() {
        let base: Uri = "http://api/a/b?x=1".parse().unwrap();
        let cases = [
            ("/c?y#z", "http://api/c?y"),
            ("c", "http://api/a/c"),
            ("?y", "http://api/a/b?y"),
            ("//other/c", "http://other/c"),
            ("https://other:8443/c", "https://other:8443/c"),
            ("file:///etc/passwd", "file:///etc/passwd"),
            ("", "http://api/a/b?x=1"),
            ("c:d/e", "c:d/e"),
            ("/c:d", "http://api/c:d"),
        ];
        for (reference, joined) in cases {
            assert_eq!(join(&base, reference), joined, "{reference}");
        }
    }
}
