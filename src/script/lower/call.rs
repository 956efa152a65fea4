//! Calls by name: operators, functions of the script, natives, functions of modules.

use rhai::{Dynamic, Expr, FnCallExpr, NativeCallContext, Position};

use super::frame::{Frame, Lowering};
use super::island::{Island, operand, operand_value};
use super::native::{Few, Site, Style, has_size, invoke, within_sizes};
use super::node::{Node, Operand};
use super::stmt::changeable;
use super::vm::{Raised, Step, Vm};
use crate::script::api::{self, Direct};

/// Names that Rhai treats as syntax, or that show what they get.
const SYNTAX: [&str; 9] =
    ["call", "curry", "Fn", "is_shared", "type_of", "is_def_fn", "is_def_var", "print", "debug"];

/// Arguments of a call. A variable that stands first is read last, and by reference.
struct Arguments {
    first: First,
    others: Box<[Operand]>,
    /// Whether a constant that stands first is passed as a copy.
    copies_constant: bool,
}

enum First {
    None,
    Variable(usize),
    Value(Operand),
}

impl Frame<'_> {
    pub fn call(&mut self, call: &FnCallExpr, position: Position) -> Lowering<Node> {
        if call.op_token.is_some() && call.args.len() == 1 {
            return self.unary(call, position);
        }
        if call.op_token.is_some() && call.args.len() == 2 {
            return self.binary(call, position);
        }
        let whole = Expr::FnCall(Box::new(call.clone()), position);
        if !call.namespace.is_empty() {
            return self.qualified(call, position);
        }
        if SYNTAX.contains(&&*call.name) {
            self.note(position, "a call that only Rhai can make");
            return Ok(self.whole(&whole));
        }
        let is_foreign_variable = matches!(call.args.first(), Some(first @ Expr::Variable(..)) if self.slot_of(first)?.is_none());
        if let Some(index) = self.known.function(&call.name, call.args.len()) {
            return self.own_function(call, index, position);
        }
        if is_foreign_variable {
            self.note(position, "a call on a constant");
            return Ok(self.whole(&whole));
        }
        let site = self.function_site(call, position);
        let arguments = self.arguments(call)?;
        // The call itself.
        self.count(1);
        Ok(Node::value(move |vm| {
            arguments.with(vm, |vm, all, by_reference| Ok(site.call(vm, all, by_reference)?.0))
        }))
    }

    fn function_site(&self, call: &FnCallExpr, position: Position) -> Site {
        let mut on_operands = call.clone();
        for (index, argument) in on_operands.args.iter_mut().enumerate() {
            *argument = match argument {
                Expr::Variable(..) if index == 0 => operand(index, argument.start_position()),
                _ => operand_value(index, argument.start_position()),
            };
        }
        let counted = operand_costs(&on_operands) + 2;
        let expr = Expr::FnCall(Box::new(on_operands), position);
        self.site(&call.name, Style::Call, position, expr, counted)
    }

    fn arguments(&mut self, call: &FnCallExpr) -> Lowering<Arguments> {
        let mut others = Vec::with_capacity(call.args.len());
        let mut first = First::None;
        for (index, argument) in call.args.iter().enumerate() {
            let node = self.argument(argument)?;
            match (index, node) {
                (0, Node::Local(slot)) => first = First::Variable(slot),
                (0, node) => first = First::Value(Operand::of(node)),
                (_, node) => others.push(Operand::of(node)),
            }
        }
        let copies_constant = call.namespace.is_empty();
        Ok(Arguments { first, others: others.into_boxed_slice(), copies_constant })
    }

    /// A function of the same script.
    fn own_function(
        &mut self,
        call: &FnCallExpr,
        index: usize,
        position: Position,
    ) -> Lowering<Node> {
        let function = &self.known.functions[index];
        let site = self.function_site(call, position);
        let arguments = self.arguments(call)?;
        let parameters = function.params.len();
        Ok(Node::value(move |vm| {
            if vm.program.functions[index].body.is_some() {
                let base = arguments.push(vm, parameters)?;
                return vm.call(index, base, position);
            }
            // Rhai runs it; it counts the call as well.
            vm.burn(1, position)?;
            arguments.with(vm, |vm, all, by_reference| Ok(site.call(vm, all, by_reference)?.0))
        }))
    }

    /// `module::name(..)`.
    fn qualified(&mut self, call: &FnCallExpr, position: Position) -> Lowering<Node> {
        let mut on_operands = call.clone();
        for (index, argument) in on_operands.args.iter_mut().enumerate() {
            *argument = match argument {
                Expr::Variable(..) if index == 0 => operand(index, argument.start_position()),
                _ => operand_value(index, argument.start_position()),
            };
        }
        let is_foreign_variable = matches!(call.args.first(), Some(first @ Expr::Variable(..)) if self.slot_of(first)?.is_none());
        if is_foreign_variable {
            self.note(position, "a call on a constant");
            return Ok(self.whole(&Expr::FnCall(Box::new(call.clone()), position)));
        }
        let counted = operand_costs(&on_operands) + 1;
        let by_rhai = Island::of(Expr::FnCall(Box::new(on_operands), position), counted);
        let directs = self.directs(call);
        if directs.is_empty() {
            self.note(position, "a function of an import");
        }
        let arguments = self.arguments(call)?;
        let function = Qualified { name: call.name.to_string(), directs, position, by_rhai };
        Ok(Node::value(move |vm| {
            arguments.with(vm, |vm, all, by_reference| function.call(vm, all, by_reference))
        }))
    }

    /// Functions that the call may mean, in the order in which Rhai looks for them.
    fn directs(&self, call: &FnCallExpr) -> Vec<Direct> {
        let [module] = call.namespace.path.as_slice() else { return Vec::new() };
        let module: &str = &module.name;
        if self.known.facts.imports.iter().any(|import| import == module) {
            return Vec::new();
        }
        let found = api::directs().functions.get(&(module, &*call.name));
        let fits = |direct: &&Direct| direct.parameters.len() == call.args.len();
        let mut found: Vec<Direct> = found.into_iter().flatten().filter(fits).cloned().collect();
        found.sort_by_key(Direct::wildcards);
        found
    }
}

/// What Rhai counts for operands in place of a call's arguments.
fn operand_costs(call: &FnCallExpr) -> u32 {
    let cost = |argument: &Expr| match argument {
        Expr::Variable(..) => 1,
        _ => super::island::VALUE_COST,
    };
    call.args.iter().map(cost).sum()
}

impl Arguments {
    /// Evaluates them, and hands them over for one call.
    fn with<T>(
        &self,
        vm: &mut Vm<'_>,
        call: impl FnOnce(&mut Vm<'_>, &mut [&mut Dynamic], bool) -> Step<T>,
    ) -> Step<T> {
        let mut values: Few<Dynamic> = Few::new();
        if let First::Value(first) = &self.first {
            values.push(first.get(vm)?);
        }
        for other in &self.others {
            values.push(other.get(vm)?);
        }
        let First::Variable(slot) = self.first else {
            let mut all: Few<&mut Dynamic> = values.iter_mut().collect();
            return call(vm, &mut all, false);
        };
        let variable = vm.slot(slot);
        if variable.is_shared() || self.copies_constant && variable.is_read_only() {
            // Rhai passes a copy of what is captured, or must not change.
            let mut copy = vm.value_of(slot);
            let mut all: Few<&mut Dynamic> =
                std::iter::once(&mut copy).chain(&mut values).collect();
            return call(vm, &mut all, false);
        }
        let mut variable = std::mem::take(vm.slot_mut(slot));
        let mut all: Few<&mut Dynamic> =
            std::iter::once(&mut variable).chain(&mut values).collect();
        let result = call(vm, &mut all, true);
        drop(all);
        *vm.slot_mut(slot) = variable;
        result
    }

    /// Puts them on the stack; gives where they begin.
    fn push(&self, vm: &mut Vm<'_>, parameters: usize) -> Step<usize> {
        let base = vm.stack.len();
        let pushed = self.push_each(vm);
        if pushed.is_err() || vm.stack.len() != base + parameters {
            vm.stack.truncate(base);
        }
        pushed.map(|()| base)
    }

    fn push_each(&self, vm: &mut Vm<'_>) -> Step<()> {
        let base = vm.stack.len();
        match &self.first {
            First::None => {}
            First::Variable(_) => vm.stack.push(Dynamic::UNIT),
            First::Value(first) => {
                let value = first.get(vm)?;
                vm.stack.push(changeable(value));
            }
        }
        for other in &self.others {
            let value = other.get(vm)?;
            vm.stack.push(changeable(value));
        }
        if let First::Variable(slot) = self.first {
            let value = vm.value_of(slot);
            vm.stack[base] = changeable(value);
        }
        Ok(())
    }
}

/// A function of a module.
struct Qualified {
    name: String,
    directs: Vec<Direct>,
    position: Position,
    by_rhai: Island,
}

impl Qualified {
    fn call(
        &self,
        vm: &mut Vm<'_>,
        arguments: &mut [&mut Dynamic],
        by_reference: bool,
    ) -> Step<Dynamic> {
        match self.directs.iter().find(|direct| direct.takes(arguments)) {
            Some(direct) => Ok(self.direct(vm, direct, arguments, by_reference)?),
            None => self.by_rhai.run(vm, arguments),
        }
    }

    /// As `Engine::exec_qualified_fn_call_raw`, which gives an error no place.
    fn direct(
        &self,
        vm: &mut Vm<'_>,
        direct: &Direct,
        arguments: &mut [&mut Dynamic],
        by_reference: bool,
    ) -> Result<Dynamic, Raised> {
        let function = &direct.function;
        vm.global.level += 1;
        let (engine, at) = (vm.engine, self.position);
        let context = function.has_context().then(|| {
            NativeCallContext::new_with_all_fields(engine, &self.name, None, &*vm.global, at)
        });
        let result = if by_reference && !function.is_method() {
            let mut first = arguments[0].clone();
            let rest = arguments[1..].iter_mut().map(|argument| &mut **argument);
            let mut all: Few<&mut Dynamic> = std::iter::once(&mut first).chain(rest).collect();
            invoke(function, context, &mut all)
        } else {
            invoke(function, context, arguments)
        };
        vm.global.level -= 1;
        let value = result?;
        match has_size(&value) {
            true => within_sizes(vm, value).map_err(|raised| super::native::placed(raised, at)),
            false => Ok(value),
        }
    }
}
