//! What Rhai would find only at run time, found when a script is loaded.

mod bodies;
mod calls;
mod closures;
mod constants;
mod grants;
mod in_place;
mod members;
mod names;
mod results;

use std::path::Path;

use rhai::{AST, ASTNode, Engine, Expr, FnCallExpr, Position, Stmt};

use super::api::Facts;
use super::diagnostic::{Diagnostic, definition};
use super::hooks::Hook;

/// Methods of a response that transform its body (`api/transforms.rs`). Two of them have
/// namesakes of arrays and strings: better one `Range` too many not asked for.
const TRANSFORMS: [&str; 9] = [
    "append",
    "map_chunks",
    "map_events",
    "map_json",
    "map_lines",
    "prepend",
    "replace_regex",
    "replace_text",
    "rewrite_html",
];

pub struct Lint<'a> {
    pub engine: &'a Engine,
    pub file: &'a Path,
    pub source: &'a str,
    pub facts: &'a Facts,
}

impl Lint<'_> {
    pub fn check(&self, ast: &AST) -> Vec<Diagnostic> {
        let mut found = self.hooks(ast);
        self.calls(ast, &mut found);
        self.closures(ast, &mut found);
        self.bodies(ast, &mut found);
        self.constants(ast, &mut found);
        self.namespaces(ast, &mut found);
        self.grants(ast, &mut found);
        self.names(ast, &mut found);
        self.without_response(ast, &mut found);
        self.members(ast, &mut found);
        self.results(ast, &mut found);
        self.in_place(ast, &mut found);
        self.catches(ast, &mut found);
        found
    }

    /// Whether it calls what transforms a body.
    pub fn transforms(ast: &AST) -> bool {
        let mut found = false;
        ast.walk(&mut |path: &[ASTNode]| {
            let call = path.last().and_then(call_of);
            found |= call.is_some_and(|(call, _)| TRANSFORMS.contains(&call.name.as_str()));
            !found
        });
        found
    }

    /// What stands before the script's first run, since its top level may ask for secrets.
    pub fn check_grants(&self, ast: &AST) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        self.grants(ast, &mut found);
        self.names(ast, &mut found);
        found
    }

    /// A file that a script imports: it has functions and constants, and no hooks.
    pub fn check_import(&self, ast: &AST) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        self.calls(ast, &mut found);
        self.closures(ast, &mut found);
        self.constants(ast, &mut found);
        self.grants(ast, &mut found);
        self.in_place(ast, &mut found);
        self.names(ast, &mut found);
        self.catches(ast, &mut found);
        found
    }

    fn problem(&self, position: Position, message: String) -> Diagnostic {
        Diagnostic::at(self.file, self.source, position, message)
    }

    fn hooks(&self, ast: &AST) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let mut any = false;
        for function in ast.iter_functions().filter(|f| f.name.starts_with("on_")) {
            let position = definition(self.source, function.name);
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
}

impl Lint<'_> {
    /// Nothing comes after a response where there is none.
    fn without_response(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        let hook = Hook::Schedule.name();
        for (_, _, body) in functions(ast).iter().filter(|(name, ..)| name == hook) {
            body.walk(&mut |path: &[ASTNode]| {
                let call = path.last().and_then(call_of);
                let call = call.filter(|(call, _)| call.name == "after_response");
                found.extend(call.map(|(call, at)| {
                    let message =
                        format!("{} has no meaning in {hook}: there is no response", call.name);
                    self.problem(at, message)
                }));
                true
            });
        }
    }
}

fn call_of<'a>(node: &'a ASTNode<'a>) -> Option<(&'a FnCallExpr, Position)> {
    match node {
        ASTNode::Expr(Expr::FnCall(call, position) | Expr::MethodCall(call, position))
        | ASTNode::Stmt(Stmt::FnCall(call, position)) => Some((call, *position)),
        _ => None,
    }
}

/// The functions by name, each with its body (of all that have this name) and its parameters.
fn functions(ast: &AST) -> Vec<(String, Vec<String>, AST)> {
    let body = |name: &str| {
        // `clone_functions_only_filtered` of Rhai 1.27 filters nothing.
        let mut body = ast.clone_functions_only();
        body.retain_functions(|_, _, n, _| n == name);
        body
    };
    let parameters =
        |f: &rhai::ScriptFnMetadata| f.params.iter().map(ToString::to_string).collect();
    let functions = ast.iter_functions();
    functions.map(|f| (f.name.to_owned(), parameters(&f), body(f.name))).collect()
}

/// The variable that a chain of dots and brackets starts with.
fn root(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Variable(variable, ..) => Some(&variable.1),
        Expr::Dot(chain, ..) | Expr::Index(chain, ..) => root(&chain.lhs),
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
