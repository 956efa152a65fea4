//! Statements.

use rhai::{ASTFlags, Dynamic, EvalAltResult, Expr, FlowControl, Ident, Position, Stmt};
use std::num::NonZeroUsize;

use super::Slow;
use super::frame::{Frame, Lowering};
use super::node::{Node, code};
use super::vm::{Code, Flow, Step, Vm};

/// A statement in a block, with what Rhai counts for it.
struct Counted {
    operations: u32,
    position: Position,
    run: Code<Dynamic>,
}

impl Counted {
    fn run(&self, vm: &mut Vm<'_>) -> Step<Dynamic> {
        vm.burn(self.operations, self.position)?;
        (self.run)(vm)
    }
}

/// A value for a variable that can be changed, in all of its parts.
pub fn changeable(mut value: Dynamic) -> Dynamic {
    if value.is_read_only() {
        // A copy forgets that the original was a constant.
        return value.clone();
    }
    if let Ok(mut array) = value.as_array_mut() {
        array.iter_mut().for_each(|item| *item = changeable(std::mem::take(item)));
    } else if let Ok(mut map) = value.as_map_mut() {
        map.values_mut().for_each(|item| *item = changeable(std::mem::take(item)));
    }
    value
}

impl Frame<'_> {
    /// Statements in a row; the last one's value is theirs.
    pub fn statements(&mut self, stmts: &[Stmt]) -> Lowering<Code<Dynamic>> {
        let mut counted = Vec::with_capacity(stmts.len());
        for stmt in stmts {
            let (node, operations) = self.measured(|frame| frame.stmt(stmt))?;
            let position = stmt.position();
            counted.push(Counted { operations, position, run: node.into_value() });
        }
        let Some(last) = counted.pop() else { return Ok(code(|_| Ok(Dynamic::UNIT))) };
        if counted.is_empty() {
            return Ok(code(move |vm| last.run(vm)));
        }
        let before = counted.into_boxed_slice();
        Ok(code(move |vm| {
            for stmt in &before {
                let _ = stmt.run(vm)?;
            }
            last.run(vm)
        }))
    }

    /// Statements with variables of their own, which are gone at the end.
    pub fn block(&mut self, stmts: &[Stmt]) -> Lowering<Code<Dynamic>> {
        let below = self.locals.len();
        let run = self.statements(stmts)?;
        let above = self.locals.len();
        self.locals.truncate(below);
        if above == below {
            return Ok(run);
        }
        Ok(code(move |vm| {
            let result = run(vm);
            vm.clear(below, above);
            result
        }))
    }

    pub fn stmt(&mut self, stmt: &Stmt) -> Lowering<Node> {
        self.count(1);
        match stmt {
            Stmt::Noop(_) => Ok(Node::Constant(Dynamic::UNIT)),
            Stmt::Expr(expr) => self.expr(expr),
            Stmt::FnCall(call, position) => self.call(call, *position),
            Stmt::Block(block) => Ok(Node::Value(self.block(block.statements())?)),
            Stmt::Var(definition, flags, position) => self.variable(definition, *flags, *position),
            Stmt::If(parts, _) => self.if_else(parts),
            Stmt::While(parts, _) => self.while_loop(parts),
            Stmt::Do(parts, flags, _) => self.do_loop(parts, *flags),
            Stmt::For(parts, position) => self.for_loop(parts, *position),
            Stmt::BreakLoop(value, flags, _) => self.leave_loop(value.as_deref(), *flags),
            Stmt::Return(value, flags, position) => {
                self.leave_function(value.as_deref(), *flags, *position)
            }
            Stmt::Switch(parts, position) => self.switch(parts, *position),
            Stmt::TryCatch(parts, _) => self.try_catch(parts),
            Stmt::Assignment(parts) => self.assignment(&parts.0, &parts.1),
            stmt => Err(Slow { position: stmt.position(), why: "a statement of another kind" }),
        }
    }

    fn variable(
        &mut self,
        definition: &(Ident, Expr, Option<NonZeroUsize>),
        flags: ASTFlags,
        position: Position,
    ) -> Lowering<Node> {
        let (name, initial, replaced) = definition;
        if flags.contains(ASTFlags::EXPORTED) {
            return Err(Slow { position, why: "an export" });
        }
        let initial = self.expr(initial)?;
        let constant = flags.contains(ASTFlags::CONSTANT);
        let slot = match replaced {
            None => self.declare(name.name.clone(), constant),
            Some(place) => {
                let slot = self.locals.len().checked_sub(place.get());
                let slot = slot.filter(|slot| self.locals[*slot].0 == name.name);
                let why = "a variable that is not where it should be";
                let slot = slot.ok_or(Slow { position, why })?;
                self.locals[slot].1 = constant;
                slot
            }
        };
        let initial = initial.into_value();
        Ok(Node::value(move |vm| {
            let value = initial(vm)?;
            let value = if constant { value.into_read_only() } else { changeable(value) };
            *vm.slot_mut(slot) = value;
            Ok(Dynamic::UNIT)
        }))
    }

    fn if_else(&mut self, parts: &FlowControl) -> Lowering<Node> {
        let position = parts.expr.position();
        let condition = self.expr(&parts.expr)?.into_bool(position);
        let yes = self.block(parts.body.statements())?;
        let has_else = !parts.branch.is_empty();
        let no = self.block(parts.branch.statements())?;
        Ok(Node::value(move |vm| match condition(vm)? {
            true => yes(vm),
            false if has_else => no(vm),
            false => Ok(Dynamic::UNIT),
        }))
    }

    fn leave_loop(&mut self, value: Option<&Expr>, flags: ASTFlags) -> Lowering<Node> {
        let value = value.map(|value| self.expr(value)).transpose()?.map(Node::into_value);
        let breaks = flags.contains(ASTFlags::BREAK);
        Ok(Node::value(move |vm| {
            let value = value.as_ref().map_or(Ok(Dynamic::UNIT), |value| value(vm))?;
            Err(if breaks { Flow::Break(value) } else { Flow::Continue })
        }))
    }

    /// `return`, or `throw`.
    fn leave_function(
        &mut self,
        value: Option<&Expr>,
        flags: ASTFlags,
        position: Position,
    ) -> Lowering<Node> {
        let value = value.map(|value| self.expr(value)).transpose()?;
        let value = value.unwrap_or(Node::Constant(Dynamic::UNIT)).into_value();
        if flags.contains(ASTFlags::BREAK) {
            return Ok(Node::value(move |vm| {
                let thrown = value(vm)?;
                Err(Flow::Raised(EvalAltResult::ErrorRuntime(thrown, position).into()))
            }));
        }
        Ok(Node::value(move |vm| Err(Flow::Return(value(vm)?))))
    }
}
