//! What runs leave behind: values that hold each other, which Rhai never frees.
//!
//! Only closures that capture variables make such values. Bytes alone do not tell, since a run also
//! gives out its edits and keeps what the engine learnt; so there must be blocks of shared values
//! that are left, more than what was given out can account for. A single small one may hide behind
//! what moved across the fiber's edge.

use std::sync::Arc;

use rhai::{AST, ASTNode, Stmt};

use super::compile::Script;
use super::exchange::{Exchange, RequestDraft};
use super::fiber;
use super::meter::Held;
use super::run::{Outcome, Run};

/// Blocks that one wait may move from the fiber to who drives it.
const CELLS_OF_A_WAIT: isize = 4;
/// And so many a fault, whose edits are thrown away outside of the fiber.
const CELLS_OF_A_FAULT: isize = 8;

/// Whether a script has closures that capture variables.
pub(super) fn shares(ast: &AST) -> bool {
    let mut found = false;
    ast.walk(&mut |path: &[ASTNode]| {
        found |= matches!(path.last(), Some(ASTNode::Stmt(Stmt::Share(..))));
        !found
    });
    found
}

/// Bytes that a run of `script`, given `before`, allocated and nobody can free any more.
pub fn left_behind(script: &Script, before: &RequestDraft, run: &Run) -> u64 {
    let Held { bytes, cells } = run.figures.held;
    let waits = isize::try_from(run.figures.waits).unwrap_or(isize::MAX);
    let faulted = matches!(run.outcome, Outcome::Fault(_));
    let most = waits.saturating_mul(CELLS_OF_A_WAIT) + if faulted { CELLS_OF_A_FAULT } else { 0 };
    // What goes on after its hook holds its values still.
    if !script.shares || run.after.is_some() || run.body.is_some() || cells <= most {
        return 0;
    }
    let given = given_out(before, run);
    let left = cells - given.cells;
    if left <= most {
        return 0;
    }
    // A run also frees what was made before it, so the blocks are the least that is left.
    u64::try_from((bytes - given.bytes).max(left * fiber::CELL_BYTES)).unwrap_or(0)
}

/// What the run's edits, its answer or its fault and the request's data take.
fn given_out(before: &RequestDraft, run: &Run) -> Held {
    let Exchange { request, response, .. } = &run.exchange;
    let start = fiber::held();
    let faulted = matches!(run.outcome, Outcome::Fault(_));
    // What a hook that faulted had edited is about as large as what it was given.
    let edited = faulted || !std::ptr::eq(&raw const **request, before);
    let edited = edited.then(|| RequestDraft::clone(request));
    let response = response.as_ref().map(|response| Arc::new((**response).clone()));
    let (answer, fault) = match &run.outcome {
        Outcome::Answer(answer) => (Some(answer.clone()), None),
        Outcome::Fault(fault) => (None, Some(fault.clone())),
        Outcome::Continue => (None, None),
    };
    let data = request.ctx.snapshot();
    let end = fiber::held();
    drop((edited, response, answer, fault, data));
    Held { bytes: end.bytes - start.bytes, cells: end.cells - start.cells }
}
