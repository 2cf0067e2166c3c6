//! `atalho svc`: asks the daemon part by part and prints each as it comes.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use serde_json::json;

use super::{Asked, Part, text};
use crate::server::{AskError, Client};

/// What `atalho svc` is asked for.
pub struct SvcOptions {
    pub run_dir: PathBuf,
    pub node: String,
    /// `namespace/name`, or a name in `default`: everything about this one.
    pub service: Option<String>,
    pub namespace: Option<String>,
    pub json: bool,
}

/// Prints the Services. 0; 1: something of them is refused, or the daemon went away in the middle; 2: nothing could be
/// asked, the reason on stderr.
pub fn run(options: &SvcOptions, out: &mut dyn Write) -> u8 {
    let in_namespace = |name: &String| match name.contains('/') {
        true => name.clone(),
        false => format!("{}/{name}", options.namespace.as_deref().unwrap_or("default")),
    };
    let service = options.service.as_ref().map(in_namespace);
    let mut asked = Asked { after: None, service, namespace: options.namespace.clone() };
    let mut client = match Client::connect(&options.run_dir, &options.node) {
        Ok(client) => client,
        Err(error) => return failed(&error, true),
    };
    let mut is_refused = false;
    loop {
        let mut request = json!(asked);
        request["ask"] = "svc".into();
        let part: Part = match client.ask_for(&request) {
            Ok(part) => part,
            Err(error) => return failed(&error, asked.after.is_none()),
        };
        is_refused |= part.services.iter().any(|row| !row.refused.is_empty());
        match write(out, &part, &asked, options.json) {
            Ok(()) => {}
            // A closed pipe is the reader's choice.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return 0,
            Err(error) => {
                eprintln!("atalho svc: writing the answer: {error}");
                return 1;
            }
        }
        match part.next {
            Some(next) => asked.after = Some(next),
            None => return u8::from(is_refused),
        }
    }
}

fn failed(error: &AskError, is_first: bool) -> u8 {
    eprintln!("atalho svc: {error}");
    if is_first { 2 } else { 1 }
}

fn write(out: &mut dyn Write, part: &Part, asked: &Asked, json: bool) -> std::io::Result<()> {
    if !json && asked.after.is_none() && asked.service.is_none() {
        writeln!(out, "{}", text::HEAD)?;
    }
    for row in &part.services {
        match json {
            true => {
                serde_json::to_writer(&mut *out, row)?;
                writeln!(out)?;
            }
            false if asked.service.is_some() => write!(out, "{}", text::whole(row))?,
            false => write!(out, "{}", text::lines(row))?,
        }
    }
    out.flush()
}
