//! What every command of the bench can be told about its figures: how to print them, and where to keep them.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(clap::Args)]
pub struct OutputArguments {
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Where the figures are kept; benches/results if not given.
    #[arg(long, value_name = "FOLDER")]
    results: Option<PathBuf>,
}

impl OutputArguments {
    /// Prints a command's figures, and keeps them under its name.
    pub fn show<F: Serialize + Display>(&self, name: &str, figures: &[F]) -> Result<()> {
        let json = serde_json::to_string(figures)?;
        keep(self.results.as_deref(), name, &json)?;
        match self.output {
            Output::Json => println!("{json}"),
            Output::Text => figures.iter().for_each(|figures| println!("{figures}")),
        }
        Ok(())
    }
}

/// Keeps a run's figures as `NAME-SECONDS.json`, the time in seconds since 1970; in benches/results if no folder is given.
/// Returns where.
pub fn keep(folder: Option<&Path>, name: &str, json: &str) -> Result<PathBuf> {
    let folder = folder.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("results"), PathBuf::from);
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let path = folder.join(format!("{name}-{seconds}.json"));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&path, format!("{json}\n")))
        .with_context(|| format!("cannot keep the figures in {} (--results names another folder)", path.display()))?;
    eprintln!("bench: figures kept in {}", path.display());
    Ok(path)
}
