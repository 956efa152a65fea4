//! `switch`, and `try` with its `catch`.

use std::sync::Arc;

use parking_lot::Mutex;
use rhai::{Dynamic, EvalAltResult, Expr, FlowControl, Position, Stmt, SwitchCasesCollection};

use super::frame::{Frame, Lowering};
use super::island::{VALUE_COST, operand_value, statement};
use super::node::Node;
use super::stmt::changeable;
use super::vm::{Code, Flow, Raised, Step, Vm};

/// An error on its way into a `catch` that Rhai runs.
#[derive(Clone)]
pub struct Pending(pub Arc<Mutex<Option<Raised>>>);

impl Frame<'_> {
    /// Rhai chooses the case, since it keeps hashes only; its value is the number of the block.
    pub fn switch(
        &mut self,
        parts: &(Expr, SwitchCasesCollection),
        position: Position,
    ) -> Lowering<Node> {
        let (expr, cases) = parts;
        let value = self.expr(expr)?.into_value();
        let mut choice = (operand_value(0, expr.position()), cases.clone());
        let mut blocks = Vec::new();
        for (number, case) in (0_i64..).zip(&mut choice.1.expressions) {
            let at = case.rhs.position();
            let (node, operations) = self.measured(|frame| frame.expr(&case.rhs))?;
            blocks.push((operations, at, node.into_value()));
            case.rhs = Expr::IntegerConstant(number, at);
        }
        self.note(position, "Rhai chooses the case of a switch");
        // The statement, the operand, and the number of the block.
        let choice =
            self.island(statement(Stmt::Switch(Box::new(choice), position)), 1 + VALUE_COST);
        let blocks = blocks.into_boxed_slice();
        Ok(Node::value(move |vm| {
            let mut value = value(vm)?;
            let number = choice.run(vm, &mut [&mut value])?;
            let number = number.as_int().ok().and_then(|number| usize::try_from(number).ok());
            let block = number.and_then(|number| blocks.get(number));
            let Some((operations, at, run)) = block else { return Ok(Dynamic::UNIT) };
            // Rhai has counted the number.
            vm.burn(operations.saturating_sub(1), *at)?;
            run(vm)
        }))
    }

    pub fn try_catch(&mut self, parts: &FlowControl) -> Lowering<Node> {
        let body = self.block(parts.body.statements())?;
        let below = self.locals.len();
        let slot = match &parts.expr {
            Expr::Variable(variable, ..) => Some(self.declare(variable.1.clone(), false)),
            _ => None,
        };
        let above = self.locals.len();
        let branch = self.block(parts.branch.statements())?;
        self.locals.truncate(below);
        let catch = Catch { slot, branch };
        Ok(Node::value(move |vm| {
            let level = vm.global.level;
            match body(vm) {
                Err(Flow::Raised(raised)) if raised.is_catchable() => {
                    vm.global.level = level;
                    let result = catch.run(vm, raised);
                    vm.clear(below, above);
                    result
                }
                result => result,
            }
        }))
    }
}

struct Catch {
    slot: Option<usize>,
    branch: Code<Dynamic>,
}

impl Catch {
    fn run(&self, vm: &mut Vm<'_>, mut raised: Raised) -> Step<Dynamic> {
        if let Some(slot) = self.slot {
            let value;
            (value, raised) = caught(vm, raised)?;
            *vm.slot_mut(slot) = changeable(value);
        }
        match (self.branch)(vm) {
            Ok(_) => Ok(Dynamic::UNIT),
            Err(Flow::Raised(again)) => match *again {
                // `throw;` throws the same again, from its own place.
                EvalAltResult::ErrorRuntime(value, position) if value.is_unit() => {
                    raised.set_position(position);
                    Err(Flow::Raised(raised))
                }
                again => Err(Flow::Raised(again.into())),
            },
            result => result,
        }
    }
}

/// The value that a `catch` gets, and the error.
fn caught(vm: &mut Vm<'_>, raised: Raised) -> Step<(Dynamic, Raised)> {
    if let EvalAltResult::ErrorRuntime(value, _) = raised.unwrap_inner() {
        return Ok((value.clone(), raised));
    }
    // What Rhai makes of its own errors it makes itself, and throws the error again.
    let pending = Pending(Arc::new(Mutex::new(Some(raised))));
    let mut operand = Dynamic::from(pending);
    let program = vm.program;
    match program.caught.run(vm, &mut [&mut operand]) {
        Err(Flow::Raised(raised)) if raised.is_catchable() => Ok((operand, raised)),
        Err(flow) => Err(flow),
        Ok(_) => {
            let error = EvalAltResult::ErrorSystem("nothing was thrown".into(), "lowering".into());
            Err(Flow::Raised(error.into()))
        }
    }
}
