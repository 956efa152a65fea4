//! Rhai's built-in operators, for the types that are common.

use rhai::{Dynamic, FnCallExpr, ImmutableString, Position};

use super::frame::{Frame, Lowering};
use super::island::{VALUE_COST, operand_value};
use super::native::{Site, Style};
use super::node::{Node, Operand, code};
use super::vm::{Step, Vm};
use rhai::Expr;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    And,
    Or,
    Xor,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "+" => Self::Add,
            "-" => Self::Subtract,
            "*" => Self::Multiply,
            "/" => Self::Divide,
            "%" => Self::Modulo,
            "&" => Self::And,
            "|" => Self::Or,
            "^" => Self::Xor,
            "==" => Self::Equal,
            "!=" => Self::NotEqual,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    fn compares(self) -> bool {
        use Operator::*;
        matches!(self, Equal | NotEqual | Less | LessOrEqual | Greater | GreaterOrEqual)
    }

    fn holds<T: PartialOrd + ?Sized>(self, x: &T, y: &T) -> bool {
        match self {
            Self::Equal => x == y,
            Self::NotEqual => x != y,
            Self::Less => x < y,
            Self::LessOrEqual => x <= y,
            Self::Greater => x > y,
            _ => x >= y,
        }
    }

    /// A comparison, unless Rhai must make it.
    pub fn compare(self, x: &Dynamic, y: &Dynamic) -> Option<bool> {
        if let (Some(x), Some(y)) = (int(x), int(y)) {
            return Some(self.holds(&x, &y));
        }
        if let (Ok(x), Ok(y)) = (x.as_immutable_string_ref(), y.as_immutable_string_ref()) {
            return Some(self.holds(x.as_str(), y.as_str()));
        }
        match (x.is_unit(), y.is_unit()) {
            (true, true) => return Some(self == Self::Equal),
            (true, false) if y.is_string() => return Some(self == Self::NotEqual),
            (false, true) if x.is_string() => return Some(self == Self::NotEqual),
            _ => {}
        }
        match (truth(x), truth(y)) {
            (Some(x), Some(y)) => Some(self.holds(&x, &y)),
            _ => None,
        }
    }

    /// A calculation, unless Rhai must make it (or refuse it).
    pub fn apply(self, x: &Dynamic, y: &Dynamic, most_bytes: usize) -> Option<Dynamic> {
        if let (Some(x), Some(y)) = (int(x), int(y)) {
            return self.whole(x, y).map(Dynamic::from_int);
        }
        if self == Self::Add
            && let (Ok(x), Ok(y)) = (x.as_immutable_string_ref(), y.as_immutable_string_ref())
        {
            let fits = x.len() + y.len() <= most_bytes;
            return fits.then(|| (&*x + &*y).into());
        }
        if let (Some(x), Some(y)) = (float(x), float(y)) {
            return self.real(x, y).map(Dynamic::from_float);
        }
        let (x, y) = (truth(x)?, truth(y)?);
        Some(Dynamic::from_bool(match self {
            Self::And => x & y,
            Self::Or => x | y,
            Self::Xor => x ^ y,
            _ => return None,
        }))
    }

    fn whole(self, x: i64, y: i64) -> Option<i64> {
        match self {
            Self::Add => x.checked_add(y),
            Self::Subtract => x.checked_sub(y),
            Self::Multiply => x.checked_mul(y),
            Self::Divide => x.checked_div(y),
            Self::Modulo => x.checked_rem(y),
            Self::And => Some(x & y),
            Self::Or => Some(x | y),
            Self::Xor => Some(x ^ y),
            _ => None,
        }
    }

    fn real(self, x: f64, y: f64) -> Option<f64> {
        match self {
            Self::Add => Some(x + y),
            Self::Subtract => Some(x - y),
            Self::Multiply => Some(x * y),
            Self::Divide => Some(x / y),
            Self::Modulo => Some(x % y),
            _ => None,
        }
    }
}

fn int(value: &Dynamic) -> Option<i64> {
    value.as_int().ok()
}

fn float(value: &Dynamic) -> Option<f64> {
    value.as_float().ok()
}

fn truth(value: &Dynamic) -> Option<bool> {
    value.as_bool().ok()
}

/// Adds to a string in place, as `+=` does, if it stays within the limit.
pub fn append(text: &mut Dynamic, more: &Dynamic, most_bytes: usize) -> bool {
    let Ok(more) = more.as_immutable_string_ref() else { return false };
    let Some(mut text) = text.write_lock::<ImmutableString>() else { return false };
    let fits = text.len() + more.len() <= most_bytes;
    if fits {
        *text += more.as_str();
    }
    fits
}

impl Frame<'_> {
    /// The most bytes of a string.
    pub fn most_bytes(&self) -> usize {
        match self.known.engine.max_string_size() {
            0 => usize::MAX,
            most => most,
        }
    }

    /// An operator by Rhai, on values.
    fn operator_site(&self, call: &FnCallExpr, position: Position) -> Site {
        let mut on_operands = call.clone();
        for (index, argument) in on_operands.args.iter_mut().enumerate() {
            *argument = operand_value(index, argument.start_position());
        }
        // The operator itself, and the operands.
        let counted = 1 + VALUE_COST * u32::try_from(call.args.len()).unwrap_or(0);
        let expr = Expr::FnCall(Box::new(on_operands), position);
        self.site(&call.name, Style::Operator, position, expr, counted)
    }

    pub fn unary(&mut self, call: &FnCallExpr, position: Position) -> Lowering<Node> {
        let site = self.operator_site(call, position);
        let operand = self.argument(&call.args[0])?;
        if let ("!", Node::Bool(_)) = (&*call.name, &operand) {
            let condition = operand.into_bool(position);
            return Ok(Node::Bool(code(move |vm| Ok(!condition(vm)?))));
        }
        let (operand, name) = (operand.into_value(), call.name.clone());
        Ok(Node::value(move |vm| {
            let mut value = operand(vm)?;
            match (&*name, truth(&value), int(&value), float(&value)) {
                ("!", Some(value), ..) => Ok((!value).into()),
                ("-", _, Some(value), _) if value != i64::MIN => Ok((-value).into()),
                ("-", _, _, Some(value)) => Ok((-value).into()),
                _ => Ok(site.call(vm, &mut [&mut value], false)?.0),
            }
        }))
    }

    pub fn binary(&mut self, call: &FnCallExpr, position: Position) -> Lowering<Node> {
        let site = self.operator_site(call, position);
        let x = Operand::of(self.argument(&call.args[0])?);
        let y = Operand::of(self.argument(&call.args[1])?);
        let Some(operator) = Operator::of(&call.name) else {
            return Ok(Node::value(move |vm| {
                let (mut x, mut y) = (x.get(vm)?, y.get(vm)?);
                Ok(site.call(vm, &mut [&mut x, &mut y], false)?.0)
            }));
        };
        let pair = Pair { x, y, operator, most_bytes: self.most_bytes(), site };
        if operator.compares() {
            return Ok(Node::value(move |vm| pair.compare(vm)));
        }
        Ok(Node::value(move |vm| pair.apply(vm)))
    }
}

/// An operator and its operands.
struct Pair {
    x: Operand,
    y: Operand,
    operator: Operator,
    most_bytes: usize,
    site: Site,
}

impl Pair {
    fn compare(&self, vm: &mut Vm<'_>) -> Step<Dynamic> {
        let operator = self.operator;
        self.run(vm, move |x, y| operator.compare(x, y).map(Dynamic::from_bool))
    }

    fn apply(&self, vm: &mut Vm<'_>) -> Step<Dynamic> {
        let (operator, most_bytes) = (self.operator, self.most_bytes);
        self.run(vm, move |x, y| operator.apply(x, y, most_bytes))
    }

    /// Looks at variables and constants where they are; Rhai gets copies.
    fn run(
        &self,
        vm: &mut Vm<'_>,
        fast: impl Fn(&Dynamic, &Dynamic) -> Option<Dynamic>,
    ) -> Step<Dynamic> {
        let (x, y) = (&self.x, &self.y);
        let (mut left, mut right);
        let done = match (x, y) {
            (Operand::Local(x), Operand::Constant(y)) => fast(vm.slot(*x), y),
            (Operand::Constant(x), Operand::Local(y)) => fast(x, vm.slot(*y)),
            (Operand::Local(x), Operand::Local(y)) => fast(vm.slot(*x), vm.slot(*y)),
            (Operand::Value(x), y) => {
                left = x(vm)?;
                let done = match y {
                    Operand::Constant(y) => fast(&left, y),
                    Operand::Local(y) => fast(&left, vm.slot(*y)),
                    Operand::Value(y) => {
                        right = y(vm)?;
                        return self.finish(vm, fast(&left, &right), &mut left, &mut right);
                    }
                };
                if let Some(done) = done {
                    return Ok(done);
                }
                right = y.get(vm)?;
                return self.finish(vm, None, &mut left, &mut right);
            }
            _ => None,
        };
        if let Some(done) = done {
            return Ok(done);
        }
        (left, right) = (x.get(vm)?, y.get(vm)?);
        self.finish(vm, fast(&left, &right), &mut left, &mut right)
    }

    fn finish(
        &self,
        vm: &mut Vm<'_>,
        done: Option<Dynamic>,
        x: &mut Dynamic,
        y: &mut Dynamic,
    ) -> Step<Dynamic> {
        match done {
            Some(done) => Ok(done),
            None => Ok(self.site.call(vm, &mut [x, y], false)?.0),
        }
    }
}
