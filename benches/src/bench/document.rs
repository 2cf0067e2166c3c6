//! Puts a run into README.md: its tables between two markers, its charts into `docs`, its figures beside them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::chart;
use super::report::BenchReport;

const BEGIN: &str = "<!-- bench: tables of a run, by `./scripts/bench --readme` -->\n";
const END: &str = "<!-- bench: end -->\n";

/// The figures that the tables were made of.
const SAMPLE: &str = "benches/results/sample.json";

/// `root`: the project's folder; `json`: the whole report.
pub fn update(root: &Path, report: &BenchReport, json: &str) -> Result<()> {
    let path = root.join("README.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut tables = report.markdown();
    for (name, svg) in chart::all(report)? {
        let chart = format!("docs/bench-{name}.svg");
        fs::write(root.join(&chart), svg).with_context(|| format!("cannot write {chart}"))?;
        tables.push_str(&format!("\n![{}]({chart})\n", chart::title(&name)));
    }
    fs::write(root.join(SAMPLE), format!("{json}\n")).with_context(|| format!("cannot write {SAMPLE}"))?;
    let text = between(&text, &tables).with_context(|| format!("{} has no place for the tables", path.display()))?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// `text` with `tables` instead of what stood between the markers.
fn between(text: &str, tables: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        assert_eq!(between(&text, "new").unwrap(), format!("before\n{BEGIN}\nnew\n{END}after\n"));
        assert_eq!(between("no markers", "new"), None);
    }

    #[test]
    fn the_readme_has_a_place_for_them() {
        let readme = include_str!("../../../README.md");
        assert!(between(readme, "new").is_some());
    }
}
