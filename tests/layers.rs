//! The layering: which module may name which, held against every `crate::` path outside tests, which may name any; and
//! how wide lines are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Each module with those that it may name: the table "Layers" of ARCHITECTURE.md.
fn layers() -> BTreeMap<String, BTreeSet<String>> {
    let page = include_str!("../ARCHITECTURE.md").split("\n## Layers\n").nth(1).unwrap();
    let rows = page.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| `"));
    let mut layers = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        // Names stand between backquotes: every second piece.
        let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
        for module in names(cells[1]) {
            assert!(layers.insert(module.clone(), names(cells[2])).is_none(), "{module} has two rows");
        }
    }
    layers
}

#[test]
fn modules_name_only_what_stands_before_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<(String, String)> = Vec::new();
    for folder in ["src", "passes"] {
        read(root, &root.join(folder), &mut files);
    }
    let layers = layers();
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut faults = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path != "src/lib.rs" && path != "src/main.rs") {
        let own = path.strip_prefix("src/").unwrap_or(path).split(['/', '.']).next().unwrap();
        let Some(allowed) = layers.get(own) else {
            faults.push(format!("{path}: {own} is not in the table"));
            continue;
        };
        let used = used.entry(own.to_owned()).or_default();
        for (line, named) in named(text) {
            if named == own {
                continue;
            }
            if !allowed.contains(&named) {
                faults.push(format!("{path}:{line}: {own} names {named}"));
            }
            used.insert(named);
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(used, layers, "the table has modules that are gone, or that name less");
}

/// Every source file that is no test, with its path from `root`.
fn read(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|n| n != "tests") {
            read(root, &path, files);
        } else if path.extension().is_some_and(|e| e == "rs")
            && path.file_name().is_some_and(|n| n != "tests.rs" && n != "testing.rs")
        {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            files.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The modules that `crate::` paths of a file name, with 1-based lines. A test module within a file stands at its end.
fn named(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let is_test = |i: &usize| {
        lines[*i].trim() == "#[cfg(test)]" && lines.get(i + 1).is_some_and(|l| l.contains("mod ") && l.ends_with('{'))
    };
    let end = (0..lines.len()).find(is_test).unwrap_or(lines.len());
    let mut found = Vec::new();
    for (i, line) in lines[..end].iter().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
        for after in line.split("crate::").skip(1) {
            // `crate::{a, b::c}` is not written in this crate: one `use` a module, as rustfmt keeps them.
            assert!(!after.starts_with('{'), "line {}: {line}: name one module a path", i + 1);
            let module: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.push((i + 1, module));
        }
    }
    found
}

/// Most columns of a line.
const WIDTH: usize = 120;

/// rustfmt wraps code at the width that `rustfmt.toml` has, but for what holds a text that has no break; comments it
/// leaves as they are.
#[test]
fn lines_are_no_wider_than_the_limit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "passes", "tests", "examples", "fuzz/fuzz_targets", "shaders"] {
        sources(&root.join(folder), &mut files);
    }
    files.push(root.join("build.rs"));
    assert!(files.len() > 300, "{} files", files.len());
    let mut faults = Vec::new();
    for path in files {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
        let source = std::fs::read_to_string(&path).unwrap();
        for (i, line) in source.lines().enumerate().filter(|(_, line)| line.chars().count() > WIDTH) {
            let text = line.trim_start();
            // Rows of tables and lines of code within comments have no break.
            let comment = text.strip_prefix("//").map(|rest| rest.trim_start_matches(['/', '!']));
            // So have lines of a graph's text.
            let is_text = text.contains('"') || text.starts_with('%');
            let is_whole = comment.map_or(is_text, |rest| rest.starts_with(" |") || rest.contains("  "));
            if !is_whole {
                faults.push(format!("{name}:{}: {} columns", i + 1, line.chars().count()));
            }
        }
    }
    assert!(faults.is_empty(), "scripts/wrap_comments.py wraps comments:\n{}", faults.join("\n"));
}

fn sources(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|e| ["rs", "comp", "glsl"].iter().any(|own| e == *own)) {
            files.push(path);
        }
    }
}
