//! What the documents quote of the code stands in the code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that meets the unexpected ends")]

use std::path::Path;

/// The fenced blocks of a document that follow a line which names a file, with that file.
fn quotes(document: &str) -> Vec<(&str, Vec<&str>)> {
    let mut quotes = Vec::new();
    let mut file = None;
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            quotes.extend(file.take().map(|file| (file, block)));
        } else if let Some(named) = line.strip_prefix('`').and_then(|line| line.strip_suffix('`')) {
            file = Some(named).filter(|named| named.contains('/') && !named.contains(' '));
        } else if !line.is_empty() {
            file = None;
        }
    }
    quotes
}

#[test]
fn quoted_code_is_in_the_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document = std::fs::read_to_string(root.join("docs/adding-an-operator.md")).unwrap();
    let quotes = quotes(&document);
    assert!(quotes.len() >= 7, "{}", quotes.len());
    for (file, block) in quotes {
        let code = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let lines: Vec<&str> = code.lines().collect();
        assert!(!block.is_empty());
        assert!(lines.windows(block.len()).any(|window| window == block), "not in {file}:\n{}", block.join("\n"));
    }
}
