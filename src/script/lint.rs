//! What Rhai would find only at run time: unknown functions, and hooks that are none.

use std::collections::BTreeSet;
use std::path::Path;

use rhai::{AST, ASTNode, Engine, Expr, FnCallExpr, Position, Stmt};

use super::diagnostic::Diagnostic;
use super::hooks::Hook;

/// Areas that filters of other proxies have, and that a reader may look for here.
const NOT_IN_THIS_VERSION: [&str; 16] = [
    "kv",
    "counter",
    "rate_limit",
    "dict",
    "ipset",
    "cache",
    "jwt",
    "jwks",
    "metrics",
    "trace",
    "html_rewriter",
    "rewrite_html",
    "replace_text",
    "after_response",
    "map_json",
    "map_lines",
];
/// Rhai's own names that are not in its function tables.
const KEYWORDS: [&str; 8] =
    ["call", "Fn", "is_def_fn", "is_def_var", "is_shared", "type_of", "print", "debug"];

pub struct Lint<'a> {
    pub engine: &'a Engine,
    pub file: &'a Path,
    pub source: &'a str,
}

impl Lint<'_> {
    pub fn check(&self, ast: &AST) -> Vec<Diagnostic> {
        let mut found = self.hooks(ast);
        let known = self.known_names(ast);
        ast.walk(&mut |path: &[ASTNode]| {
            if let Some((call, position)) = path.last().and_then(call_of) {
                found.extend(self.unknown_call(call, position, &known));
            }
            true
        });
        found
    }

    fn problem(&self, position: Position, message: String) -> Diagnostic {
        Diagnostic::at(self.file, self.source, position, message)
    }

    fn unknown_call(
        &self,
        call: &FnCallExpr,
        position: Position,
        known: &BTreeSet<String>,
    ) -> Option<Diagnostic> {
        if call.op_token.is_some() {
            return None;
        }
        let path = call.namespace.path.iter().map(|part| part.name.as_str());
        let name = path.chain([call.name.as_str()]).collect::<Vec<_>>().join("::");
        if known.contains(&name) || name.starts_with("global::") {
            return None;
        }
        let root = name.split("::").next().unwrap_or_default();
        let hint = if NOT_IN_THIS_VERSION.contains(&root) {
            Some(format!("{root} is not part of this version of selvedge"))
        } else {
            let near = nearest(&name, known.iter().map(String::as_str));
            near.map(|near| format!("did you mean {near}?"))
        };
        let message = format!("there is no function {name}");
        Some(self.problem(position, message).with_hint(hint))
    }

    /// Everything that can be called: natives, the script's functions, and variables.
    fn known_names(&self, ast: &AST) -> BTreeSet<String> {
        let natives = self.engine.collect_fn_metadata(
            None,
            |function| {
                let (module, name) = (&function.namespace, &function.metadata.name);
                Some(if module.is_empty() { name.to_string() } else { format!("{module}::{name}") })
            },
            true,
        );
        let mut known: BTreeSet<String> = natives.into_iter().collect();
        known.extend(KEYWORDS.map(String::from));
        for function in ast.iter_functions() {
            known.insert(function.name.to_owned());
            known.extend(function.params.iter().map(|name| (*name).to_owned()));
        }
        ast.walk(&mut |path: &[ASTNode]| {
            if let Some(ASTNode::Stmt(Stmt::Var(definition, ..))) = path.last() {
                known.insert(definition.0.name.to_string());
            }
            true
        });
        known
    }

    fn hooks(&self, ast: &AST) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let mut any = false;
        for function in ast.iter_functions().filter(|f| f.name.starts_with("on_")) {
            let position = self.position_of(function.name);
            let Some(hook) = Hook::ALL.into_iter().find(|hook| hook.name() == function.name) else {
                let near = nearest(function.name, Hook::ALL.into_iter().map(Hook::name));
                let message = format!("{} is not a hook", function.name);
                let names = Hook::ALL.map(Hook::signature).join(", ");
                let hint = near.map_or(format!("the hooks are {names}"), |near| {
                    format!("did you mean {near}? The hooks are {names}")
                });
                found.push(self.problem(position, message).with_hint(Some(hint)));
                continue;
            };
            any = true;
            if function.params.len() != hook.parameters().len() {
                let given = function.params.len();
                let message = format!("{} takes {given} parameters here", hook.name());
                let hint = format!("write fn {}", hook.signature());
                found.push(self.problem(position, message).with_hint(Some(hint)));
            }
        }
        if !any && found.is_empty() {
            let hint = format!("define one of {}", Hook::ALL.map(Hook::signature).join(", "));
            let message = "this script has no hook".to_owned();
            found.push(self.problem(Position::NONE, message).with_hint(Some(hint)));
        }
        found
    }

    /// Rhai does not tell where a function is defined.
    fn position_of(&self, function: &str) -> Position {
        let definition = |line: &str| {
            let rest = line.trim_start().trim_start_matches("private ");
            let rest = rest.strip_prefix("fn ")?.trim_start().strip_prefix(function)?;
            rest.trim_start().starts_with('(').then_some(())
        };
        let line = self.source.lines().position(|line| definition(line).is_some());
        line.and_then(|index| u16::try_from(index + 1).ok())
            .map_or(Position::NONE, |line| Position::new(line, 1))
    }
}

fn call_of<'a>(node: &'a ASTNode<'a>) -> Option<(&'a FnCallExpr, Position)> {
    match node {
        ASTNode::Expr(Expr::FnCall(call, position) | Expr::MethodCall(call, position))
        | ASTNode::Stmt(Stmt::FnCall(call, position)) => Some((call, *position)),
        _ => None,
    }
}

/// The candidate that was probably meant.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = name.len() / 3 + 1;
    let scored =
        candidates.map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate));
    scored.filter(|(distance, _)| *distance <= most).min().map(|(_, candidate)| candidate)
}
