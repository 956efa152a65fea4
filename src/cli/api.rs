//! `selvedge api`: what filters can call, to read or for an editor.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::print::{answer, fail};
use crate::script;

#[derive(Debug, Args)]
pub struct Api {
    /// Write definitions for the Rhai language server into a folder instead
    #[arg(long, value_name = "DIR")]
    definitions: Option<PathBuf>,
}

impl Api {
    pub fn run(self) -> ExitCode {
        let Some(folder) = self.definitions else { return answer(&script::reference()) };
        match write(&folder) {
            Ok(count) => answer(&format!("{}: {count} files\n", folder.display())),
            Err(error) => fail(format!("{}: {error}", folder.display())),
        }
    }
}

fn write(folder: &Path) -> std::io::Result<usize> {
    std::fs::create_dir_all(folder)?;
    let files = script::definitions();
    for (name, text) in &files {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(files.len())
}
