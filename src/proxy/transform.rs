//! Bodies that filters transform: whether it can be done, what it means for the head, and the
//! pieces on their way.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header;
use parking_lot::Mutex;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora_proxy::Session;

use super::ctx::Ctx;
use super::fail::Failure;
use super::filters;
use super::head;
use crate::config::filters::OnFault;
use crate::script::Fault;
use crate::snapshot::FilterState;
use crate::transform::{Body, Error, Fit, Obstacle, Pipeline, Stage, fit};

/// What a filter gave for the body.
pub struct Given {
    pub filter: Arc<FilterState>,
    /// Never locked: a stage is no `Sync`, which a request's state has to be.
    pub stage: Mutex<Box<dyn Stage>>,
}

/// A body on its way through what filters gave.
pub struct OnItsWay {
    /// Never locked, as above.
    body: Mutex<Body>,
    filters: Vec<Arc<FilterState>>,
}

/// The label of transforms beside those of hooks.
const BODY: &str = "body";

/// The head is about to go to the client, and filters gave transforms.
pub fn begin(session: &Session, head: &mut ResponseHeader, ctx: &mut Ctx) -> Result<()> {
    let given = std::mem::take(&mut ctx.scripts.given);
    if given.is_empty() {
        return Ok(());
    }
    let request = session.req_header();
    let (method, asked, status) = (&request.method, &request.headers, head.status);
    let fitted = head::edit_response(head, |parts| fit(method, asked, status, &mut parts.headers));
    let (from, to) = match fitted {
        Ok(Fit::Body { from, to }) => (from, to),
        Ok(Fit::HeadOnly) => return Ok(()),
        Err(obstacle @ Obstacle::NoTransform) => {
            tell(ctx, &given, &obstacle);
            return Ok(());
        }
        Err(obstacle) => return impossible(ctx, &given, &obstacle),
    };
    head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    let filters = given.iter().map(|given| Arc::clone(&given.filter)).collect();
    let stages = given.into_iter().map(|given| Box::new(OfFilter(given)) as Box<dyn Stage>);
    let body = Body::new(Pipeline::new(stages.collect()), from, to);
    let body = body.map_err(|error| failed(ctx, error))?;
    ctx.scripts.body = Some(Box::new(OnItsWay { body: Mutex::new(body), filters }));
    Ok(())
}

/// A piece of the body: what can be sent of it.
pub fn piece(ctx: &mut Ctx, piece: &mut Option<Bytes>, end: bool) -> Result<()> {
    let Some(body) = &mut ctx.scripts.body else { return Ok(()) };
    let came = piece.take().unwrap_or_default();
    match body.body.get_mut().take(&came, end) {
        Ok(out) => {
            *piece = Some(Bytes::from(out)).filter(|out| !out.is_empty());
            if end {
                let done = ctx.scripts.body.take();
                done.iter().flat_map(|done| &done.filters).for_each(|filter| {
                    filter.metrics.ended(BODY, "continue");
                });
            }
            Ok(())
        }
        // The head is out: only a broken connection tells the client that this is not all.
        Err(error) => {
            ctx.scripts.body = None;
            Err(failed(ctx, error))
        }
    }
}

/// The filters' transforms cannot be done: their own policies say what that means.
fn impossible(ctx: &mut Ctx, given: &[Given], why: &Obstacle) -> Result<()> {
    tell(ctx, given, why);
    let closed = given.iter().find(|given| given.filter.config.on_fault != OnFault::Open);
    match closed {
        Some(given) => {
            let name = given.filter.config.name.to_string();
            Err(ctx.refuse(Failure::FilterFault(name)))
        }
        None => Ok(()),
    }
}

fn tell(ctx: &Ctx, given: &[Given], what: &Obstacle) {
    for given in given {
        filters::tell_log(ctx, &given.filter, "on_response", &what.to_string());
    }
}

fn failed(ctx: &mut Ctx, error: Error) -> Box<pingora::Error> {
    let error = match error {
        Error::Callback(error) => error,
        error => return ctx.refuse(Failure::UpstreamInvalid(error.to_string())),
    };
    match error.downcast::<Broken>() {
        Ok(broken) => {
            let Broken { filter, fault } = *broken;
            filter.metrics.ended(BODY, filters::label_of(&fault));
            filters::note_fault(ctx, &filter, &fault);
            ctx.refuse(Failure::FilterFault(filter.config.name.to_string()))
        }
        Err(error) => ctx.refuse(Failure::Internal(error.to_string())),
    }
}

/// A stage that tells whose it is when it fails.
struct OfFilter(Given);

#[derive(thiserror::Error)]
#[error("{fault}")]
struct Broken {
    filter: Arc<FilterState>,
    fault: Box<Fault>,
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl OfFilter {
    fn broken(&self, error: Error) -> Error {
        match error {
            Error::Callback(error) => match error.downcast::<Fault>() {
                Ok(fault) => {
                    let filter = Arc::clone(&self.0.filter);
                    Error::Callback(Box::new(Broken { filter, fault }))
                }
                Err(error) => Error::Callback(error),
            },
            error => error,
        }
    }
}

impl Stage for OfFilter {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> std::result::Result<(), Error> {
        self.0.stage.get_mut().push(piece, out).map_err(|error| self.broken(error))
    }

    fn end(&mut self, out: &mut Vec<u8>) -> std::result::Result<(), Error> {
        self.0.stage.get_mut().end(out).map_err(|error| self.broken(error))
    }
}
