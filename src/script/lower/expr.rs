//! Expressions.

use rhai::{Dynamic, Expr, Stmt};

use super::frame::{Frame, Lowering};
use super::island::Island;
use super::node::{Node, code};
use super::vm::{Code, Step, Vm};

impl Frame<'_> {
    /// An expression, as `Engine::eval_expr` evaluates it.
    pub fn expr(&mut self, expr: &Expr) -> Lowering<Node> {
        self.count(1);
        Ok(match expr {
            Expr::DynamicConstant(value, _) => Node::Constant((**value).clone()),
            Expr::BoolConstant(value, _) => Node::Constant((*value).into()),
            Expr::IntegerConstant(value, _) => Node::Constant((*value).into()),
            Expr::FloatConstant(value, _) => Node::Constant((**value).into()),
            Expr::CharConstant(value, _) => Node::Constant((*value).into()),
            Expr::StringConstant(value, _) => Node::Constant(value.clone().into()),
            Expr::Unit(_) => Node::Constant(Dynamic::UNIT),
            Expr::Variable(..) => return self.read(expr),
            Expr::InterpolatedString(parts, _) => return self.interpolation(parts),
            Expr::Array(items, _) => return self.array(items),
            Expr::Map(fields, _) => return self.map(&fields.0, &fields.1),
            Expr::And(parts, _) => return self.junction(parts, false),
            Expr::Or(parts, _) => return self.junction(parts, true),
            Expr::Coalesce(parts, _) => return self.coalesce(parts),
            Expr::FnCall(call, position) => return self.call(call, *position),
            Expr::Dot(..) | Expr::Index(..) => return self.chain(expr),
            Expr::Stmt(block) if matches!(block.statements().first(), Some(Stmt::Share(_))) => {
                // A closure with what it captures. Rhai does not count the block it stands in.
                self.note(block.position(), "a closure that captures is made");
                self.by_rhai(self.island(expr.clone(), 0))
            }
            Expr::Stmt(block) => Node::Value(self.block(block.statements())?),
            expr => {
                self.note(expr.position(), "an expression of another kind");
                self.whole(expr)
            }
        })
    }

    /// An argument, as `Engine::get_arg_value` evaluates it: a literal counts once.
    pub fn argument(&mut self, expr: &Expr) -> Lowering<Node> {
        match expr.get_literal_value(None) {
            Some(value) => {
                self.count(1);
                Ok(Node::Constant(value))
            }
            None => self.expr(expr),
        }
    }

    /// An expression that Rhai evaluates, which counts what was counted for it here.
    pub fn whole(&self, expr: &Expr) -> Node {
        self.by_rhai(self.island(expr.clone(), 1))
    }

    pub fn by_rhai(&self, island: Island) -> Node {
        Node::value(move |vm| island.run(vm, &mut []))
    }

    fn read(&mut self, expr: &Expr) -> Lowering<Node> {
        if let Some(slot) = self.slot_of(expr)? {
            return Ok(Node::Local(slot));
        }
        if let Some(value) = self.global(expr) {
            // Rhai marks what it reads as unchangeable.
            return Ok(Node::value(move |_| Ok(value.clone().into_read_only())));
        }
        self.note(expr.position(), "a name that is no variable");
        Ok(self.whole(expr))
    }

    /// A constant of the top level.
    fn global(&self, expr: &Expr) -> Option<Dynamic> {
        let Expr::Variable(variable, ..) = expr else { return None };
        if !variable.2.is_empty() {
            return None;
        }
        self.known.facts.constants.get(&*variable.1).cloned()
    }

    /// `&&` and `||`: the first is always evaluated, the others not.
    fn junction(&mut self, parts: &[Expr], ends_with: bool) -> Lowering<Node> {
        let conditions = self.in_turn(parts, |node, expr| node.into_bool(expr.position()))?;
        Ok(Node::Bool(code(move |vm| {
            for condition in &conditions {
                if condition.run(vm)? == ends_with {
                    return Ok(ends_with);
                }
            }
            Ok(!ends_with)
        })))
    }

    fn coalesce(&mut self, parts: &[Expr]) -> Lowering<Node> {
        let values = self.in_turn(parts, |node, _| node.into_value())?;
        Ok(Node::value(move |vm| {
            let mut value = Dynamic::UNIT;
            for part in &values {
                value = part.run(vm)?;
                if !value.is_unit() {
                    break;
                }
            }
            Ok(value)
        }))
    }

    fn in_turn<T>(
        &mut self,
        parts: &[Expr],
        code_of: impl Fn(Node, &Expr) -> Code<T>,
    ) -> Lowering<Box<[InTurn<T>]>> {
        let mut lowered = Vec::with_capacity(parts.len());
        for (index, expr) in parts.iter().enumerate() {
            let (node, mut operations) = self.measured(|frame| frame.expr(expr))?;
            if index == 0 {
                self.count(operations);
                operations = 0;
            }
            let position = expr.position();
            lowered.push(InTurn { operations, position, code: code_of(node, expr) });
        }
        Ok(lowered.into_boxed_slice())
    }
}

/// A part that may not be evaluated, with what Rhai counts if it is.
struct InTurn<T> {
    operations: u32,
    position: rhai::Position,
    code: Code<T>,
}

impl<T> InTurn<T> {
    fn run(&self, vm: &mut Vm<'_>) -> Step<T> {
        if self.operations > 0 {
            vm.burn(self.operations, self.position)?;
        }
        (self.code)(vm)
    }
}
