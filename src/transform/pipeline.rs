//! Stages one after another.

use super::Error;

/// One transform. Pieces may be cut anywhere.
pub trait Stage: Send {
    /// Takes a piece, and appends what is ready to `out`.
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error>;

    /// There is no more: appends what was held back.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error>;
}

/// Stages in their order, as one.
#[derive(Default)]
pub struct Pipeline {
    stages: Vec<Box<dyn Stage>>,
    /// What goes from one stage to the next; kept for its memory.
    between: [Vec<u8>; 2],
}

impl Pipeline {
    pub fn new(stages: Vec<Box<dyn Stage>>) -> Self {
        Self { stages, between: Default::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Puts a stage behind the others.
    pub fn add(&mut self, stage: Box<dyn Stage>) {
        self.stages.push(stage);
    }

    fn run(&mut self, piece: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        let [input, output] = &mut self.between;
        input.clear();
        let Some((final_stage, inner)) = self.stages.split_last_mut() else {
            out.extend_from_slice(piece);
            return Ok(());
        };
        let mut first = true;
        for stage in inner {
            output.clear();
            step(&mut **stage, if first { piece } else { input }, last, output)?;
            std::mem::swap(input, output);
            first = false;
        }
        step(&mut **final_stage, if first { piece } else { input }, last, out)
    }
}

fn step(stage: &mut dyn Stage, piece: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), Error> {
    if !piece.is_empty() {
        stage.push(piece, out)?;
    }
    if last { stage.end(out) } else { Ok(()) }
}

impl Stage for Pipeline {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.run(piece, false, out)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.run(&[], true, out)
    }
}
