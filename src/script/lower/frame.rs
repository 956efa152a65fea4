//! The compiler's view of one function: its variables, and what Rhai would count.

use rhai::ImmutableString;
use rhai::{ASTNode, Dynamic, Expr, Position, ScriptFuncDef, Stmt};

use super::island::{Island, Local};
use super::native::{Site, Style};
use super::vm::Code;
use super::{Known, Slow};

/// What cannot be lowered leaves the whole function to Rhai, with the reason.
pub type Lowering<T> = Result<T, Slow>;

/// Variables in one function; Rhai's own bound is far above.
const MOST_VARIABLES: usize = 250;

pub struct Frame<'a> {
    pub known: &'a Known<'a>,
    /// Variables, as they lie in Rhai's scope at this point.
    pub locals: Vec<(ImmutableString, bool)>,
    slots: usize,
    /// Operations that Rhai counts for what is always evaluated, since it was last taken.
    cost: u32,
    islands: Vec<Slow>,
}

/// What remains of a frame.
pub struct Kept {
    pub islands: Vec<Slow>,
    pub slots: usize,
}

impl<'a> Frame<'a> {
    pub fn new(known: &'a Known<'a>, definition: &ScriptFuncDef) -> Self {
        let locals = definition.params.iter().map(|name| (name.clone(), false)).collect();
        let slots = definition.params.len();
        Self { known, locals, slots, cost: 0, islands: Vec::new() }
    }

    pub fn kept(self) -> Kept {
        Kept { islands: self.islands, slots: self.slots }
    }

    pub fn function(
        &mut self,
        definition: &ScriptFuncDef,
        body: &[Stmt],
    ) -> Lowering<Code<Dynamic>> {
        let start = body.first().map_or(Position::NONE, Stmt::position);
        let slow = |why| Err(Slow { position: start, why });
        if definition.this_type.is_some() {
            return slow("a method of a type");
        }
        let same = |f: &&rhai::Shared<ScriptFuncDef>| {
            f.name == definition.name && f.params.len() == definition.params.len()
        };
        if self.known.functions.iter().filter(same).count() > 1 {
            return slow("another function has its name");
        }
        if !self.known.engine.fast_operators() {
            return slow("operators are not Rhai's own");
        }
        body.iter().find_map(unknown).map_or(Ok(()), Err)?;
        let lowered = self.statements(body)?;
        if self.slots > MOST_VARIABLES {
            return slow("too many variables");
        }
        Ok(lowered)
    }

    /// A variable's slot, as the parser has placed it; None when it is none of the function's.
    pub fn slot_of(&self, expr: &Expr) -> Lowering<Option<usize>> {
        let Expr::Variable(variable, short, position) = expr else { return Ok(None) };
        let index = short.map_or(variable.0.map_or(0, |n| n.get()), |n| usize::from(n.get()));
        if !variable.2.is_empty() {
            return Ok(None);
        }
        if index == 0 {
            // A closure's captured variable, unless there is a constant of that name.
            let is_global = self.known.facts.constants.contains_key(&*variable.1);
            let by_name = || self.locals.iter().rposition(|(name, _)| *name == variable.1);
            return Ok(if is_global { None } else { by_name() });
        }
        let slot = self.locals.len().checked_sub(index);
        let slot = slot.filter(|slot| self.locals[*slot].0 == variable.1);
        let why = "a variable that is not where it should be";
        slot.map(Some).ok_or(Slow { position: *position, why })
    }

    pub fn is_constant(&self, slot: usize) -> bool {
        self.locals[slot].1
    }

    /// A new variable, above all others.
    pub fn declare(&mut self, name: ImmutableString, constant: bool) -> usize {
        self.locals.push((name, constant));
        self.slots = self.slots.max(self.locals.len());
        self.locals.len() - 1
    }

    /// Counts operations.
    pub fn count(&mut self, operations: u32) {
        self.cost += operations;
    }

    /// What `lower` counts, apart from what was counted before.
    pub fn measured<T>(
        &mut self,
        lower: impl FnOnce(&mut Self) -> Lowering<T>,
    ) -> Lowering<(T, u32)> {
        let outer = std::mem::take(&mut self.cost);
        let lowered = lower(self);
        let cost = std::mem::replace(&mut self.cost, outer);
        Ok((lowered?, cost))
    }

    /// Notes that Rhai runs something here.
    pub fn note(&mut self, position: Position, why: &'static str) {
        self.islands.push(Slow { position, why });
    }

    /// An island that sees the function's variables.
    pub fn island(&self, expr: Expr, counted: u32) -> Island {
        let names = names_in(&expr);
        let local = |(name, constant): &(ImmutableString, bool)| Local {
            used: names.contains(name),
            name: name.clone(),
            constant: *constant,
        };
        Island { locals: self.locals.iter().map(local).collect(), expr, counted }
    }

    /// A call by name of a native, on operands alone.
    pub fn site(&self, name: &str, style: Style, at: Position, expr: Expr, counted: u32) -> Site {
        Site::new(name, style, at, Island::of(expr, counted))
    }
}

/// Names that a piece of a script mentions, also those that it declares itself.
fn names_in(expr: &Expr) -> Vec<ImmutableString> {
    let mut names = Vec::new();
    each_below(expr, &mut |node| match node {
        ASTNode::Expr(Expr::Variable(variable, ..)) => names.push(variable.1.clone()),
        ASTNode::Stmt(Stmt::Share(shared)) => {
            names.extend(shared.iter().map(|(variable, _)| variable.name.clone()));
        }
        _ => {}
    });
    names
}

/// The first thing in a statement that needs Rhai's own scope.
fn unknown(stmt: &Stmt) -> Option<Slow> {
    let mut found = None;
    each_in(stmt, &mut |node| {
        let (why, position) = match node {
            ASTNode::Expr(Expr::ThisPtr(position)) => ("this", *position),
            ASTNode::Expr(Expr::Custom(_, position)) => ("syntax of its own", *position),
            ASTNode::Stmt(Stmt::Import(_, position)) => ("an import", *position),
            ASTNode::Stmt(Stmt::Export(_, position)) => ("an export", *position),
            ASTNode::Expr(Expr::FnCall(call, position) | Expr::MethodCall(call, position))
            | ASTNode::Stmt(Stmt::FnCall(call, position))
                if call.capture_parent_scope || matches!(&*call.name, "eval" | "is_def_var") =>
            {
                ("a call that sees all variables", *position)
            }
            _ => return,
        };
        found.get_or_insert(Slow { position, why });
    });
    found
}

/// Every node of a statement.
fn each_in(stmt: &Stmt, on_node: &mut dyn FnMut(&ASTNode<'_>)) {
    stmt.walk(&mut Vec::new(), &mut |path: &[ASTNode]| on_last(path, on_node));
}

/// Every node of an expression.
fn each_below(expr: &Expr, on_node: &mut dyn FnMut(&ASTNode<'_>)) {
    expr.walk(&mut Vec::new(), &mut |path: &[ASTNode]| on_last(path, on_node));
}

fn on_last(path: &[ASTNode<'_>], on_node: &mut dyn FnMut(&ASTNode<'_>)) -> bool {
    let Some(node) = path.last() else { return true };
    on_node(node);
    // Rhai's walk passes the value of a `break` by.
    if let ASTNode::Stmt(Stmt::BreakLoop(Some(value), ..)) = node {
        each_below(value, on_node);
    }
    true
}
