//! The layering: which module may name which, held against every `crate::` path outside tests; and how wide lines are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

/// Data moves one way: each module names only what stands before it.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("ir", &[]),
    ("targets", &[]),
    ("ops", &["ir", "targets"]),
    ("quant", &["ir"]),
    ("program", &["ir", "targets"]),
    ("kernels", &["ir", "ops", "targets", "program"]),
    ("import", &["ir", "ops", "targets", "program"]),
    ("plan", &["ir", "ops", "targets", "program", "kernels"]),
    ("assign", &["ir", "ops", "targets", "program", "quant", "kernels", "plan"]),
    ("passes", &["ir", "ops", "targets", "program", "quant", "kernels", "plan", "assign"]),
    ("codegen", &["ir", "ops", "targets", "kernels", "program"]),
    ("runtime", &["ir", "targets", "program"]),
    ("diff", &["ir", "program"]),
    ("export", &["ir", "ops", "import"]),
    (
        "session",
        &[
            "ir", "targets", "ops", "program", "import", "quant", "kernels", "plan", "assign", "passes", "codegen",
            "runtime", "diff",
        ],
    ),
    ("failure", &["ir", "targets", "program", "import", "passes", "runtime", "export", "session"]),
    (
        "cli",
        &[
            "ir", "targets", "ops", "program", "import", "quant", "kernels", "plan", "assign", "passes", "codegen",
            "runtime", "diff", "export", "session", "failure",
        ],
    ),
];

#[test]
fn modules_name_only_what_stands_before_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<(String, String)> = Vec::new();
    for folder in ["src", "passes"] {
        read(root, &root.join(folder), &mut files);
    }
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path != "src/lib.rs" && path != "src/main.rs") {
        let own = path.strip_prefix("src/").unwrap_or(path).split(['/', '.']).next().unwrap();
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == own) else {
            faults.push(format!("{path}: {own} is not in the table"));
            continue;
        };
        seen.insert(own);
        for (line, named) in named(text) {
            if named != own && !allowed.contains(&named.as_str()) {
                faults.push(format!("{path}:{line}: {own} names {named}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(seen.len(), MAY_NAME.len(), "the table has modules that are gone: {seen:?}");
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
