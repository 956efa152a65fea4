//! A piece of a script that Rhai's own evaluator runs, in the middle of lowered code.
//!
//! It gets the variables that it names, in the places where Rhai expects them, and values that
//! lowered code has already evaluated as variables `$0`, `$1`, and so on. These lie below all
//! others, since Rhai counts places from the top.

use rhai::{CustomExpr, FnArgsVec, ImmutableString, Namespace, StmtBlock};
use rhai::{Dynamic, EvalAltResult, EvalContext, Expr, Expression, Position, Scope, Stmt};

use super::vm::{Flow, Step, Vm};
use crate::script::fiber;

/// A variable of the function, as it is where the island lies.
#[derive(Clone)]
pub struct Local {
    pub name: ImmutableString,
    pub constant: bool,
    /// Whether the island names it; its value goes there and comes back.
    pub used: bool,
}

pub struct Island {
    pub expr: Expr,
    pub locals: Box<[Local]>,
    /// What Rhai counts here for what lowered code has counted already.
    pub counted: u32,
}

impl Island {
    /// Without variables of the function.
    pub fn of(expr: Expr, counted: u32) -> Self {
        Self { expr, locals: Box::default(), counted }
    }

    /// Runs it. Operands come back as the script left them.
    pub fn run(&self, vm: &mut Vm<'_>, operands: &mut [&mut Dynamic]) -> Step<Dynamic> {
        let mut scope = Scope::new();
        for (index, operand) in operands.iter_mut().enumerate() {
            let name = operand_name(index);
            match operand.is_read_only() {
                true => scope.push_constant_dynamic(name, operand.clone()),
                false => scope.push_dynamic(name, std::mem::take(*operand)),
            };
        }
        self.lend_locals(vm, &mut scope);
        fiber::refund(i32::try_from(self.counted).unwrap_or(i32::MAX));
        let level = vm.global.level;
        let mut context =
            EvalContext::new(vm.engine, &mut *vm.global, &mut *vm.caches, &mut scope, None);
        let result = context.eval_expression_tree(&Expression::from(&self.expr));
        vm.global.level = level;
        self.take_back_locals(vm, &mut scope, operands.len());
        for (index, operand) in operands.iter_mut().enumerate() {
            // A constant has stayed here.
            if let Some(value) = scope.get_mut(&operand_name(index)) {
                **operand = std::mem::take(value);
            }
        }
        match result {
            Ok(value) => Ok(value.flatten()),
            Err(error) => Err(flow_of(*error)),
        }
    }

    fn lend_locals(&self, vm: &mut Vm<'_>, scope: &mut Scope<'_>) {
        for (slot, local) in self.locals.iter().enumerate() {
            // A loop's variable is constant where its values are.
            let stays = local.constant || vm.slot(slot).is_read_only();
            match (local.used, stays) {
                (false, _) => scope.push_dynamic("", Dynamic::UNIT),
                (true, true) => scope.push_constant_dynamic(&*local.name, vm.slot(slot).clone()),
                (true, false) => {
                    scope.push_dynamic(&*local.name, std::mem::take(vm.slot_mut(slot)))
                }
            };
        }
    }

    /// From the top down, so that the last of a name is the one meant.
    fn take_back_locals(&self, vm: &mut Vm<'_>, scope: &mut Scope<'_>, below: usize) {
        for (slot, local) in self.locals.iter().enumerate().rev() {
            scope.rewind(below + slot + 1);
            if !local.used {
                continue;
            }
            if let Some(value) = scope.get_mut(&local.name) {
                *vm.slot_mut(slot) = std::mem::take(value);
            } else if let Some((_, _, value)) = scope.iter_raw().next() {
                // A constant, which may have become shared. Rhai goes through them backwards.
                *vm.slot_mut(slot) = value.clone().into_read_only();
            }
        }
    }
}

fn flow_of(error: EvalAltResult) -> Flow {
    match error {
        EvalAltResult::Return(value, _) => Flow::Return(value),
        EvalAltResult::LoopBreak(true, value, _) => Flow::Break(value),
        EvalAltResult::LoopBreak(false, ..) => Flow::Continue,
        error => Flow::Raised(error.into()),
    }
}

pub fn operand_name(index: usize) -> String {
    format!("${index}")
}

/// An operand as a variable; Rhai passes it by reference where it passes variables so.
pub fn operand(index: usize, position: Position) -> Expr {
    let name = operand_name(index).into();
    Expr::Variable(Box::new((None, name, Namespace::NONE, 0)), None, position)
}

/// What Rhai counts to evaluate [`operand_value`].
pub const VALUE_COST: u32 = 1;

/// The word that an operand's value is taken by.
pub const OPERAND: &str = "lowered__operand";

/// An operand as a value that nobody else has: a variable would be copied, and a copy forgets
/// which of its parts are constant.
pub fn operand_value(index: usize, position: Position) -> Expr {
    let taken = CustomExpr {
        inputs: FnArgsVec::new(),
        tokens: std::iter::once(OPERAND.into()).collect(),
        state: operand_name(index).into(),
        scope_may_be_changed: false,
        self_terminated: false,
    };
    Expr::Custom(Box::new(taken), position)
}

/// What [`OPERAND`] does.
pub fn take_operand(scope: &mut Scope<'_>, name: &Dynamic) -> Dynamic {
    let Ok(name) = name.as_immutable_string_ref() else { return Dynamic::UNIT };
    if let Some(value) = scope.get_mut(&name) {
        return std::mem::take(value);
    }
    scope.get(&name).map_or(Dynamic::UNIT, |value| value.clone().into_read_only())
}

/// A statement as an expression. Run as an island, Rhai counts nothing for the block.
pub fn statement(stmt: Stmt) -> Expr {
    let position = stmt.position();
    Expr::Stmt(Box::new(StmtBlock::new([stmt], position, position)))
}
