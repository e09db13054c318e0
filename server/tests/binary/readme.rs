//! The README shows files as they are.

use std::{fs, path::Path};

/// The blocks whose first line says a language and a path: (path, text).
fn shown(readme: &str) -> Vec<(&str, String)> {
    let mut shown = Vec::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let inside = lines.by_ref().take_while(|line| *line != "```");
        let text = inside.map(|line| format!("{line}\n")).collect();
        if let Some((_, path)) = info.split_once(' ').filter(|(_, path)| path.contains('/')) {
            shown.push((path, text));
        }
    }
    shown
}

#[test]
fn code_in_the_readme_is_that_of_the_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let shown = shown(&readme);
    assert_eq!(shown.len(), 6, "{shown:?}");
    for (path, text) in shown {
        let file = fs::read_to_string(root.join(path)).unwrap();
        assert_eq!(text, file, "{path}");
    }
}
