//! A lowered expression, in the form that its user can make most of.

use rhai::{Dynamic, EvalAltResult, Position};

use super::vm::{Code, Flow, Step, Vm};

pub enum Node {
    Constant(Dynamic),
    /// A variable, by its slot.
    Local(usize),
    Value(Code<Dynamic>),
    Bool(Code<bool>),
}

/// A closure as code.
pub fn code<T>(run: impl Fn(&mut Vm<'_>) -> Step<T> + Send + Sync + 'static) -> Code<T> {
    Box::new(run)
}

impl Node {
    pub fn value(run: impl Fn(&mut Vm<'_>) -> Step<Dynamic> + Send + Sync + 'static) -> Self {
        Self::Value(code(run))
    }

    pub fn into_value(self) -> Code<Dynamic> {
        match self {
            Self::Constant(value) => code(move |_| Ok(value.clone())),
            Self::Local(slot) => code(move |vm| Ok(vm.value_of(slot))),
            Self::Value(code) => code,
            Self::Bool(condition) => code(move |vm| Ok(condition(vm)?.into())),
        }
    }

    /// As a condition; `position` is where a value of another type is refused.
    pub fn into_bool(self, position: Position) -> Code<bool> {
        match self {
            Self::Bool(condition) => condition,
            Self::Local(slot) => code(move |vm| truth(vm.slot(slot), position)),
            node => {
                let value = node.into_value();
                code(move |vm| truth(&value(vm)?, position))
            }
        }
    }
}

fn truth(value: &Dynamic, position: Position) -> Step<bool> {
    value.as_bool().map_err(|given| {
        let error = EvalAltResult::ErrorMismatchDataType("bool".into(), given.into(), position);
        Flow::Raised(error.into())
    })
}

/// An operand that can often be looked at where it is.
pub enum Operand {
    Constant(Dynamic),
    Local(usize),
    Value(Code<Dynamic>),
}

impl Operand {
    pub fn of(node: Node) -> Self {
        match node {
            Node::Constant(value) => Self::Constant(value),
            Node::Local(slot) => Self::Local(slot),
            node => Self::Value(node.into_value()),
        }
    }

    pub fn get(&self, vm: &mut Vm<'_>) -> Step<Dynamic> {
        match self {
            Self::Constant(value) => Ok(value.clone()),
            Self::Local(slot) => Ok(vm.value_of(*slot)),
            Self::Value(code) => code(vm),
        }
    }
}
