//! Documents must not name what is gone: every path in backticks in these files exists.

use std::fs;
use std::path::Path;

const DOCUMENTS: [&str; 4] = ["ARCHITECTURE.md", "README.md", SERVICES, FAULTS];
const SERVICES: &str = "docs/services.md";
const FAULTS: &str = "docs/faults.md";

/// A word in backticks that means a path of this repository: it has a slash or ends like a file, and no wildcard,
/// placeholder or space.
fn is_path(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let outside = word.starts_with('/') || word.starts_with('-') || word.starts_with('.') && !word.starts_with("./");
    let file = [".rs", ".md", ".toml", ".c", ".h", ".yaml"].iter().any(|ending| word.ends_with(ending));
    plain && !outside && word.chars().any(|c| c.is_ascii_alphabetic()) && (file || word.contains('/'))
}

/// Words between single backticks, outside fenced blocks.
fn quoted(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut words = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            words.extend(line.split('`').skip(1).step_by(2));
        }
    }
    words
}

#[test]
fn every_path_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).unwrap_or_else(|error| panic!("{document}: {error}"));
        let paths: Vec<&str> = quoted(&text).into_iter().filter(|word| is_path(word)).collect();
        assert!(!paths.is_empty(), "{document} names no path at all");
        missing.extend(paths.iter().filter(|path| !root.join(path).exists()).map(|path| format!("{document}: {path}")));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_test_that_a_rule_names_stands_in_its_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (document, least) in [(SERVICES, 20), (FAULTS, 12)] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let mut found = 0;
        for row in text.lines().filter(|line| line.starts_with('|')) {
            let mut file = String::new();
            for word in quoted(row.rsplit('|').nth(1).unwrap_or_default()) {
                if is_path(word) {
                    file = fs::read_to_string(root.join(word)).unwrap_or_else(|error| panic!("{word}: {error}"));
                } else if !file.is_empty() {
                    assert!(file.contains(&format!("fn {word}(")), "no test {word} where {document} says");
                    found += 1;
                }
            }
        }
        assert!(found > least, "{found} tests in {document}");
    }
}

#[test]
fn a_path_is_told_from_other_words() {
    for path in ["fastpath/engine", "./scripts/run", "src/main.rs", "README.md"] {
        assert!(is_path(path), "{path}");
    }
    for other in ["atalho run", "/readyz", "process()", "a/*.rs", "tx off", "--stay", "10.96.0.0/16 x", "fd00::1/64"] {
        assert!(!is_path(other), "{other}");
    }
}
