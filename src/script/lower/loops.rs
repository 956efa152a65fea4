//! `while`, `loop`, `do` and `for`.

use std::ops::{Range, RangeInclusive};

use rhai::{ASTFlags, Dynamic, EvalAltResult, Expr, FlowControl, Ident, Position, Stmt};

use super::frame::{Frame, Lowering};
use super::island::{Island, operand_value, statement};
use super::node::Node;
use super::vm::{Code, Flow, Step, Vm};

/// How a loop goes on after its body: the value if it ends.
fn after(body: Step<Dynamic>) -> Step<Option<Dynamic>> {
    match body {
        Ok(_) | Err(Flow::Continue) => Ok(None),
        Err(Flow::Break(value)) => Ok(Some(value)),
        Err(flow) => Err(flow),
    }
}

/// The condition of a loop, with what Rhai counts for it each time.
struct Condition {
    operations: u32,
    position: Position,
    run: Code<bool>,
}

impl Condition {
    fn holds(&self, vm: &mut Vm<'_>) -> Step<bool> {
        vm.burn(self.operations, self.position)?;
        (self.run)(vm)
    }
}

impl Frame<'_> {
    fn condition(&mut self, expr: &Expr) -> Lowering<Condition> {
        let position = expr.position();
        let (node, operations) = self.measured(|frame| frame.expr(expr))?;
        Ok(Condition { operations, position, run: node.into_bool(position) })
    }

    pub fn while_loop(&mut self, parts: &FlowControl) -> Lowering<Node> {
        let is_endless = matches!(parts.expr, Expr::Unit(_) | Expr::BoolConstant(true, _));
        let condition = if is_endless { None } else { Some(self.condition(&parts.expr)?) };
        let is_empty = parts.body.is_empty();
        let position = parts.body.position();
        let body = self.block(parts.body.statements())?;
        Ok(Node::value(move |vm| {
            loop {
                match &condition {
                    Some(condition) if !condition.holds(vm)? => return Ok(Dynamic::UNIT),
                    Some(_) => {}
                    // Nothing in there counts.
                    None if is_empty => vm.burn(1, position)?,
                    None => {}
                }
                if let Some(value) = after(body(vm))? {
                    return Ok(value);
                }
            }
        }))
    }

    pub fn do_loop(&mut self, parts: &FlowControl, flags: ASTFlags) -> Lowering<Node> {
        let body = self.block(parts.body.statements())?;
        let condition = self.condition(&parts.expr)?;
        let ends_when = flags.contains(ASTFlags::NEGATED);
        Ok(Node::value(move |vm| {
            loop {
                match body(vm) {
                    Ok(_) => {}
                    // Rhai's `continue` passes the condition by.
                    Err(Flow::Continue) => continue,
                    Err(Flow::Break(value)) => return Ok(value),
                    Err(flow) => return Err(flow),
                }
                if condition.holds(vm)? == ends_when {
                    return Ok(Dynamic::UNIT);
                }
            }
        }))
    }

    pub fn for_loop(
        &mut self,
        parts: &(Ident, Option<Ident>, FlowControl),
        position: Position,
    ) -> Lowering<Node> {
        let (variable, counter, FlowControl { expr, body, .. }) = parts;
        let items = self.expr(expr)?.into_value();
        // Other things than arrays and ranges: the whole loop by Rhai, over the evaluated thing.
        let mut other = parts.clone();
        other.2.expr = operand_value(0, expr.start_position());
        // Rhai counts the statement and the operand; it starts with `for` again.
        let counted = 1 + super::island::VALUE_COST;
        let other = statement(Stmt::For(Box::new(other), position));
        let other = self.island(other, counted);
        let below = self.locals.len();
        let counter = counter.as_ref().map(|counter| self.declare(counter.name.clone(), false));
        let slot = self.declare(variable.name.clone(), false);
        let above = self.locals.len();
        let is_empty = body.is_empty();
        let run = self.block(body.statements())?;
        self.locals.truncate(below);
        let each = For { counter, slot, above, run, other, is_empty, position: body.position() };
        Ok(Node::value(move |vm| {
            let items = items(vm)?;
            let result = each.over(vm, items);
            vm.clear(below, each.above);
            result
        }))
    }
}

struct For {
    counter: Option<usize>,
    slot: usize,
    above: usize,
    run: Code<Dynamic>,
    other: Island,
    is_empty: bool,
    position: Position,
}

impl For {
    fn over(&self, vm: &mut Vm<'_>, mut items: Dynamic) -> Step<Dynamic> {
        if items.is_array() {
            let array = items.into_array().map_err(mistyped)?;
            return self.each(vm, array.into_iter().map(Dynamic::flatten));
        }
        let range = items.read_lock::<Range<i64>>().map(|range| range.clone());
        if let Some(range) = range {
            return self.each(vm, range.map(Dynamic::from_int));
        }
        let range = items.read_lock::<RangeInclusive<i64>>().map(|range| range.clone());
        if let Some(range) = range {
            return self.each(vm, range.map(Dynamic::from_int));
        }
        self.other.run(vm, &mut [&mut items])
    }

    fn each(&self, vm: &mut Vm<'_>, items: impl Iterator<Item = Dynamic>) -> Step<Dynamic> {
        if self.is_empty {
            for _ in items {
                vm.burn(1, self.position)?;
            }
            return Ok(Dynamic::UNIT);
        }
        for (index, item) in (0_i64..).zip(items) {
            if let Some(counter) = self.counter {
                set(vm.slot_mut(counter), index.into());
            }
            set(vm.slot_mut(self.slot), item);
            if let Some(value) = after((self.run)(vm))? {
                return Ok(value);
            }
        }
        Ok(Dynamic::UNIT)
    }
}

/// Gives a loop's variable its next value, which closures that captured it see too.
fn set(variable: &mut Dynamic, value: Dynamic) {
    if variable.is_shared()
        && let Some(mut inner) = variable.write_lock::<Dynamic>()
    {
        *inner = value;
        return;
    }
    *variable = value;
}

#[cold]
fn mistyped(given: &'static str) -> Flow {
    let error = EvalAltResult::ErrorMismatchDataType("array".into(), given.into(), Position::NONE);
    Flow::Raised(error.into())
}
