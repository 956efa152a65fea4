//! Chains of dots and brackets: the compiler's part.

use rhai::{ASTFlags, BinaryExpr, Expr, FnCallExpr, OpAssignment, Position, Stmt};

use super::frame::{Frame, Lowering};
use super::island::{Island, VALUE_COST, operand, operand_value, statement};
use super::native::Style;
use super::node::{Node, Operand};
use super::walk::{Chain, Does, Head, Link, Rest};
use crate::script::api;

/// Methods that Rhai treats as syntax.
const SYNTAX: [&str; 7] =
    ["call", "curry", "is_shared", "type_of", "is_def_fn", "is_def_var", "eval"];

/// One link as the parser made it.
pub struct Part<'e> {
    pub node: &'e Expr,
    pub is_index: bool,
    /// `?.` or `?[`.
    pub is_careful: bool,
    /// Of the dot or the bracket.
    pub position: Position,
}

/// The head of a chain and its links.
pub fn parts(chain: &Expr) -> (&Expr, Vec<Part<'_>>) {
    let mut parts = Vec::new();
    let mut head = chain;
    let mut at = chain;
    while let Expr::Dot(pair, flags, position) | Expr::Index(pair, flags, position) = at {
        if parts.is_empty() {
            head = &pair.lhs;
        }
        let is_index = matches!(at, Expr::Index(..));
        // In an index a chain may also be the index itself.
        let goes_on = !is_index || !flags.intersects(ASTFlags::BREAK);
        let next = match &pair.rhs {
            Expr::Dot(next, ..) | Expr::Index(next, ..) if goes_on => Some(next),
            _ => None,
        };
        let node = next.map_or(&pair.rhs, |next| &next.lhs);
        let is_careful = flags.intersects(ASTFlags::NEGATED);
        parts.push(Part { node, is_index, is_careful, position: *position });
        match next {
            Some(_) => at = &pair.rhs,
            None => break,
        }
    }
    (head, parts)
}

/// The chain from one of its links on, with another head.
fn from_link(chain: &Expr, link: usize, new_head: Expr) -> Expr {
    let mut rest = chain;
    for _ in 0..link {
        if let Expr::Dot(pair, ..) | Expr::Index(pair, ..) = rest {
            rest = &pair.rhs;
        }
    }
    let mut rest = rest.clone();
    if let Expr::Dot(pair, ..) | Expr::Index(pair, ..) = &mut rest {
        pair.lhs = new_head;
    }
    rest
}

/// A chain in which all arguments are operands.
pub fn on_operands(chain: &Expr, next: &mut usize) -> Expr {
    let mut chain = chain.clone();
    replace(&mut chain, next);
    chain
}

fn replace(chain: &mut Expr, next: &mut usize) {
    let is_index = matches!(chain, Expr::Index(..));
    let (Expr::Dot(pair, flags, _) | Expr::Index(pair, flags, _)) = chain else { return };
    let goes_on = !is_index || !flags.intersects(ASTFlags::BREAK);
    let mut one = |node: &mut Expr| {
        let mut take = |expr: &mut Expr, position: Position| {
            *expr = operand_value(*next, position);
            *next += 1;
        };
        match node {
            node if is_index => take(node, node.start_position()),
            Expr::MethodCall(call, _) => {
                call.args.iter_mut().for_each(|argument| take(argument, argument.position()));
            }
            _ => {}
        }
    };
    match &mut pair.rhs {
        Expr::Dot(next, ..) | Expr::Index(next, ..) if goes_on => one(&mut next.lhs),
        last => return one(last),
    }
    replace(&mut pair.rhs, next);
}

/// A chain of one link, on operands: the receiver is `$0`.
fn single(part: &Part<'_>) -> Expr {
    let head = operand(0, part.position);
    let mut node = part.node.clone();
    if part.is_index {
        node = operand_value(1, node.start_position());
    } else if let Expr::MethodCall(call, _) = &mut node {
        for (index, argument) in call.args.iter_mut().enumerate() {
            *argument = operand_value(1 + index, argument.position());
        }
    }
    let pair = Box::new(BinaryExpr { lhs: head, rhs: node });
    let flags = ASTFlags::BREAK;
    match part.is_index {
        true => Expr::Index(pair, flags, part.position),
        false => Expr::Dot(pair, flags, part.position),
    }
}

impl Frame<'_> {
    /// A chain that is read.
    pub fn chain(&mut self, chain: &Expr) -> Lowering<Node> {
        let (head, parts) = parts(chain);
        if let Expr::ThisPtr(position) = head {
            return Err(super::Slow { position: *position, why: "this" });
        }
        let arguments = self.chain_arguments(&parts)?;
        let slot = self.slot_of(head)?;
        let head = match slot {
            // Rhai counts the variable.
            Some(slot) => {
                self.count(1);
                Head::Local(slot)
            }
            None => Head::Value(self.expr(head)?.into_value()),
        };
        let links = self.links(chain, &parts, None)?;
        let chain = Chain { head, arguments, links };
        Ok(Node::value(move |vm| chain.read(vm)))
    }

    /// Arguments of all links, evaluated before the head.
    pub fn chain_arguments(&mut self, parts: &[Part<'_>]) -> Lowering<Box<[Operand]>> {
        let is_short = match parts {
            [part] if part.is_index => part.node.get_literal_value(None).is_some(),
            [Part { node: Expr::MethodCall(call, _), .. }] => call.args.is_empty(),
            [_] => true,
            _ => false,
        };
        if !is_short {
            self.count(u32::try_from(parts.len()).unwrap_or(u32::MAX));
        }
        let mut arguments = Vec::new();
        for part in parts {
            match part.node {
                node if part.is_index && is_short => {
                    // A literal, which Rhai does not count here.
                    let (node, _) = self.measured(|frame| frame.argument(node))?;
                    arguments.push(Operand::of(node));
                }
                node if part.is_index => arguments.push(Operand::of(self.expr(node)?)),
                Expr::MethodCall(call, _) => {
                    for argument in &call.args {
                        arguments.push(Operand::of(self.argument(argument)?));
                    }
                }
                _ => {}
            }
        }
        Ok(arguments.into_boxed_slice())
    }

    /// The links of a chain; with an operator, the last one is assigned to.
    pub fn links(
        &mut self,
        chain: &Expr,
        parts: &[Part<'_>],
        assigned: Option<&OpAssignment>,
    ) -> Lowering<Box<[Link]>> {
        let replaced = on_operands(chain, &mut 0);
        let mut before = 0;
        let mut links = Vec::with_capacity(parts.len());
        for (index, part) in parts.iter().enumerate() {
            let taken = argument_count(part);
            let arguments = before..before + taken;
            before += taken;
            let rest = self.rest(&replaced, parts, index, assigned);
            let does = match assigned {
                Some(operator) if index + 1 == parts.len() => self.setter(part, operator),
                _ => self.getter(part),
            };
            if let Does::Other = does {
                self.note(part.position, "a method that Rhai must call");
            }
            let set_at = assigned.map_or(Position::NONE, OpAssignment::position);
            let (is_careful, position) = (part.is_careful, part.position);
            links.push(Link { does, is_careful, position, set_at, arguments, rest });
        }
        Ok(links.into_boxed_slice())
    }

    /// The chain from a link on by Rhai; its receiver is the operand after all others.
    fn rest(
        &self,
        chain: &Expr,
        parts: &[Part<'_>],
        link: usize,
        assigned: Option<&OpAssignment>,
    ) -> Rest {
        let all: usize = parts.iter().map(argument_count).sum();
        let left: usize = parts[link..].iter().map(argument_count).sum();
        let (links, at) = (parts.len() - link, parts[link].position);
        let is_short = links == 1 && left == 0;
        let evaluated = if is_short { 0 } else { links + left };
        let evaluated = u32::try_from(evaluated).unwrap_or(u32::MAX);
        let Some(operator) = assigned else {
            let by_reference = from_link(chain, link, operand(all, at));
            let by_value = from_link(chain, link, operand_value(all, at));
            // The chain itself, its arguments, and its head.
            return Rest {
                by_reference: Island::of(by_reference, 1 + evaluated + 1),
                by_value: Island::of(by_value, 1 + evaluated + VALUE_COST),
            };
        };
        let assign = || {
            let lhs = from_link(chain, link, operand(all + 1, at));
            let rhs = operand_value(all, at);
            let pair = (operator.clone(), BinaryExpr { lhs, rhs });
            // The statement, the value, the arguments and the head.
            let counted = 1 + VALUE_COST + evaluated + 1;
            Island::of(statement(Stmt::Assignment(Box::new(pair))), counted)
        };
        Rest { by_reference: assign(), by_value: assign() }
    }

    fn getter(&self, part: &Part<'_>) -> Does {
        match part.node {
            _ if part.is_index => {
                // The chain, its head, the index with the link around it, the look-up, the getter.
                let expr = single(part);
                let getter = self.site("index$get$", Style::Index, part.position, expr, 6);
                Does::Index { getter }
            }
            Expr::Property(property, position) => {
                let name: &str = &property.2;
                // The chain, its head, and the getter, which the walk counts.
                let expr = single(part);
                let getter = self.site(&property.0.0, Style::Property, *position, expr, 3);
                // `tag` is Rhai's own, of everything.
                let has_setter = api::directs().setters.contains(name) || name == "tag";
                Does::Property { name: property.2.clone(), getter, has_setter }
            }
            Expr::MethodCall(call, position) => self.method(part, call, *position),
            _ => Does::Other,
        }
    }

    fn setter(&self, part: &Part<'_>, operator: &OpAssignment) -> Does {
        let set = |value: usize| {
            let rhs = operand_value(value, part.position);
            let pair = (operator.clone(), BinaryExpr { lhs: single(part), rhs });
            statement(Stmt::Assignment(Box::new(pair)))
        };
        match part.node {
            _ if part.is_index => {
                // The statement, the value, the index with its link, the head, the look-up, the
                // setter.
                let counted = 1 + VALUE_COST + 2 + 1 + 1 + 1;
                let setter = self.site("index$set$", Style::Index, part.position, set(2), counted);
                Does::SetIndex { setter }
            }
            Expr::Property(property, position) => {
                let counted = 1 + VALUE_COST + 1 + 1;
                let name = &property.1.0;
                let setter = self.site(name, Style::Property, *position, set(1), counted);
                Does::SetProperty { setter }
            }
            _ => Does::Other,
        }
    }

    fn method(&self, part: &Part<'_>, call: &FnCallExpr, position: Position) -> Does {
        let name: &str = &call.name;
        if SYNTAX.contains(&name) || self.known.is_method(name, call.args.len()) {
            return Does::Other;
        }
        let count = u32::try_from(call.args.len()).unwrap_or(u32::MAX);
        // The chain, its head, and the arguments with the link around them.
        let counted = 2 + if count > 0 { 1 + count } else { 0 } + 1;
        let site = self.site(name, Style::Call, position, single(part), counted);
        Does::Method { name: call.name.clone(), site }
    }
}

pub fn argument_count(part: &Part<'_>) -> usize {
    match part.node {
        _ if part.is_index => 1,
        Expr::MethodCall(call, _) => call.args.len(),
        _ => 0,
    }
}
