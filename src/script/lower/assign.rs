//! Assignments.

use rhai::{BinaryExpr, Dynamic, Expr, OpAssignment, Stmt};

use super::Slow;
use super::chain::parts;
use super::frame::{Frame, Lowering};
use super::island::{Island, VALUE_COST, operand_value, statement};
use super::native::Few;
use super::node::{Node, Operand};
use super::operator::{Operator, append};
use super::stmt::changeable;
use super::vm::{Code, Step, Vm};
use super::walk::{Link, Walk};

impl Frame<'_> {
    pub fn assignment(&mut self, operator: &OpAssignment, pair: &BinaryExpr) -> Lowering<Node> {
        match &pair.lhs {
            Expr::Variable(..) => self.assign_variable(operator, pair),
            Expr::Dot(..) | Expr::Index(..) => self.assign_chain(operator, pair),
            lhs => Err(Slow { position: lhs.position(), why: "an assignment to something else" }),
        }
    }

    /// The assignment by Rhai, of an operand.
    fn assignment_island(&self, operator: &OpAssignment, pair: &BinaryExpr, more: u32) -> Island {
        let rhs = operand_value(0, pair.rhs.position());
        let pair = BinaryExpr { lhs: pair.lhs.clone(), rhs };
        let stmt = Stmt::Assignment(Box::new((operator.clone(), pair)));
        // The statement and the operand.
        self.island(statement(stmt), 1 + VALUE_COST + more)
    }

    fn assign_variable(&mut self, operator: &OpAssignment, pair: &BinaryExpr) -> Lowering<Node> {
        let value = self.expr(&pair.rhs)?.into_value();
        // The variable, which Rhai counts again.
        self.count(1);
        let by_rhai = self.assignment_island(operator, pair, 1);
        let slot = self.slot_of(&pair.lhs)?.filter(|slot| !self.is_constant(*slot));
        let Some(slot) = slot else {
            return Ok(Node::value(move |vm| {
                let mut value = value(vm)?;
                by_rhai.run(vm, &mut [&mut value])
            }));
        };
        let Some((.., name)) = operator.get_op_assignment_info() else {
            return Ok(Node::value(move |vm| {
                let mut value = value(vm)?;
                let variable = vm.slot_mut(slot);
                if variable.is_shared() || variable.is_read_only() {
                    return by_rhai.run(vm, &mut [&mut value]);
                }
                *variable = changeable(value);
                Ok(Dynamic::UNIT)
            }));
        };
        let (operation, most_bytes) = (Operator::of(name), self.most_bytes());
        Ok(Node::value(move |vm| {
            let mut value = value(vm)?;
            let variable = vm.slot_mut(slot);
            let free = !variable.is_shared() && !variable.is_read_only();
            if free && operation.is_some_and(|it| it.assign(variable, &value, most_bytes)) {
                return Ok(Dynamic::UNIT);
            }
            by_rhai.run(vm, &mut [&mut value])
        }))
    }

    fn assign_chain(&mut self, operator: &OpAssignment, pair: &BinaryExpr) -> Lowering<Node> {
        let value = self.expr(&pair.rhs)?.into_value();
        let by_rhai = self.assignment_island(operator, pair, 0);
        let (head, parts) = parts(&pair.lhs);
        let slot = self.slot_of(head)?.filter(|slot| !self.is_constant(*slot));
        let slot = slot.filter(|_| !operator.is_op_assignment());
        let Some(slot) = slot else {
            self.note(pair.lhs.position(), "an assignment in place");
            return Ok(Node::value(move |vm| {
                let mut value = value(vm)?;
                by_rhai.run(vm, &mut [&mut value])
            }));
        };
        let (arguments, operations) = self.measured(|frame| {
            frame.count(1);
            frame.chain_arguments(&parts)
        })?;
        let links = self.links(&pair.lhs, &parts, Some(operator))?;
        let position = pair.lhs.position();
        let assignment = Assignment { slot, value, arguments, links, by_rhai };
        Ok(Node::value(move |vm| {
            let mut value = (assignment.value)(vm)?;
            let variable = vm.slot(assignment.slot);
            if variable.is_shared() || variable.is_read_only() {
                return assignment.by_rhai.run(vm, &mut [&mut value]);
            }
            vm.burn(operations, position)?;
            assignment.run(vm, value)
        }))
    }
}

/// An assignment to a part of a variable.
struct Assignment {
    slot: usize,
    value: Code<Dynamic>,
    arguments: Box<[Operand]>,
    links: Box<[Link]>,
    by_rhai: Island,
}

impl Assignment {
    fn run(&self, vm: &mut Vm<'_>, value: Dynamic) -> Step<Dynamic> {
        let mut arguments = Few::new();
        for argument in &self.arguments {
            arguments.push(argument.get(vm)?);
        }
        arguments.push(value);
        let mut receiver = std::mem::take(vm.slot_mut(self.slot));
        let walk = Walk { links: &self.links };
        let result = walk.from(vm, &mut receiver, true, &mut arguments);
        *vm.slot_mut(self.slot) = receiver;
        result.map(|_| Dynamic::UNIT)
    }
}

impl Operator {
    /// `variable op= value`, unless Rhai must do it.
    fn assign(self, variable: &mut Dynamic, value: &Dynamic, most_bytes: usize) -> bool {
        if self == Self::Add && variable.is_string() && value.is_string() {
            return append(variable, value, most_bytes);
        }
        let numbers = |x: &Dynamic| x.is_int() || x.is_float();
        if !numbers(variable) || !numbers(value) {
            return false;
        }
        match self.apply(variable, value, most_bytes) {
            Some(result) => {
                *variable = result;
                true
            }
            None => false,
        }
    }
}
