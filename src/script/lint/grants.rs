//! Host calls whose plain arguments show that the configuration does not grant them.

use rhai::{AST, ASTNode, Expr, Position};

use super::{Lint, call_of, nearest};
use crate::script::api;
use crate::script::diagnostic::Diagnostic;

impl Lint<'_> {
    pub(super) fn grants(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        ast.walk(&mut |path: &[ASTNode]| {
            let Some((call, _)) = path.last().and_then(call_of) else { return true };
            if !call.namespace.is_empty() {
                return true;
            }
            match (call.name.as_str(), call.args.first()) {
                ("secret", Some(Expr::StringConstant(name, position))) => {
                    found.extend(self.secret(name, *position));
                }
                ("fetch" | "fetch_start" | "jwks", Some(url)) => found.extend(self.url(url)),
                ("fetch_all", Some(Expr::Array(requests, _))) => {
                    found.extend(requests.iter().filter_map(|request| self.request(request)));
                }
                _ => {}
            }
            true
        });
    }

    fn secret(&self, name: &str, position: Position) -> Option<Diagnostic> {
        if self.facts.secrets.contains_key(name) {
            return None;
        }
        let message = format!("this filter has no secret {name}");
        let near = nearest(name, self.facts.secrets.keys().map(String::as_str));
        let hint = near.map_or_else(
            || format!("declare it in the configuration, under this filter's secrets: {name}"),
            |near| format!("did you mean {near}?"),
        );
        Some(self.problem(position, message).with_hint(Some(hint)))
    }

    fn request(&self, request: &Expr) -> Option<Diagnostic> {
        match request {
            Expr::Map(map, _) => {
                let url = map.0.iter().find(|(key, _)| key.name == "url");
                url.and_then(|(_, url)| self.url(url))
            }
            url => self.url(url),
        }
    }

    fn url(&self, url: &Expr) -> Option<Diagnostic> {
        let (text, position) = match url {
            Expr::StringConstant(text, position) => (text.as_str(), *position),
            // `http://host/..${}`: what follows the host's slash is of no account.
            Expr::InterpolatedString(parts, position) => match parts.first() {
                Some(Expr::StringConstant(start, _)) if start.splitn(4, '/').count() == 4 => {
                    (start.as_str(), *position)
                }
                _ => return None,
            },
            _ => return None,
        };
        let error = api::granted(&self.facts.fetch, text).err()?;
        let granted: Vec<String> = self.facts.fetch.allow.iter().map(ToString::to_string).collect();
        let hint = match granted.as_slice() {
            [] => "this filter has no fetch.allow: add the origin to it".to_owned(),
            some => format!("fetch.allow has {}", some.join(", ")),
        };
        let message = crate::script::fault::text_of(&error);
        Some(self.problem(position, message).with_hint(Some(hint)))
    }
}
