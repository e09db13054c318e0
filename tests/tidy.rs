//! The repository checks itself.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// `server/ARCHITECTURE.md` draws a map of modules; a module uses only what stands below it.
#[test]
fn modules_use_only_what_stands_below_them() {
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("server");
    let text = fs::read_to_string(server.join("ARCHITECTURE.md")).unwrap();
    let map = text
        .split("<!-- map -->")
        .nth(1)
        .expect("the map is between two marks");
    let layers: Vec<&str> = map
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let height: BTreeMap<&str, usize> = layers
        .iter()
        .enumerate()
        .map(|(i, module)| (*module, i))
        .collect();
    let mut wrong = Vec::new();
    for module in modules(&server.join("src")) {
        let name = module.file_stem().unwrap().to_str().unwrap();
        let Some(own) = height.get(name) else {
            wrong.push(format!("{name} is not on the map"));
            continue;
        };
        for (file, used) in uses(&module) {
            match height.get(used.as_str()) {
                Some(other) if other >= own => {}
                Some(_) => wrong.push(format!("{file}: {name} uses {used}, which stands above it")),
                None => wrong.push(format!(
                    "{file}: {name} uses {used}, which is not on the map"
                )),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Documents name tests as `module::test`; a name that rots is worse than none.
#[test]
fn every_test_and_item_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    for document in ["tests/COVERAGE.md", "server/ARCHITECTURE.md"] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        // Every second part of the text between backticks is code.
        for name in text.split('`').skip(1).step_by(2) {
            let named = name.rsplit_once("::");
            let Some((module, test)) = named.filter(|(_, it)| it.starts_with(char::is_lowercase))
            else {
                continue;
            };
            let file = format!("{}.rs", module.replace("::", "/"));
            let folders = ["tests", "server/tests/binary", "server/src"];
            let folders = folders.map(|folder| root.join(folder));
            let code = folders.map(|folder| fs::read_to_string(folder.join(&file)).ok());
            let mut code = code.iter().flatten().peekable();
            let items = ["fn {}(", "fn {}<", "mod {};"].map(|item| item.replace("{}", test));
            let has_it = |code: &String| items.iter().any(|item| code.contains(item));
            if code.peek().is_some() && !code.any(has_it) {
                missing.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The modules at the root of the crate, as files or folders.
fn modules(src: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(src)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| !["lib", "main"].contains(&path.file_stem().unwrap().to_str().unwrap()))
        .collect()
}

/// Which modules of the crate the files of `module` name, and where. What the crate re-exports at
/// its root is told by its own module.
fn uses(module: &Path) -> Vec<(String, String)> {
    let reexports = BTreeMap::from([
        ("Config", "config"),
        ("Error", "error"),
        ("Result", "error"),
        ("Class", "object"),
        ("Context", "object"),
        ("Namespace", "object"),
        ("Running", "server"),
        ("ServeError", "server"),
        ("Server", "server"),
    ]);
    let mut found = Vec::new();
    for file in files(module) {
        let text = fs::read_to_string(&file).unwrap();
        // Tests and comments may look at anything.
        let code = text.split("#[cfg(test)]").next().unwrap();
        let code: String = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        let mut rest = code.as_str();
        while let Some((_, after)) = rest.split_once("crate::") {
            rest = after;
            let names: Vec<&str> = match after.strip_prefix('{') {
                Some(group) => top_level_names(group),
                None => vec![first_word(after)],
            };
            for name in names {
                let module = reexports.get(name).copied().unwrap_or(name);
                found.push((file.display().to_string(), module.to_owned()));
            }
        }
    }
    found
}

fn first_word(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// The first word of each part of `a::{b, c}, d::e}...`, up to the brace that closes it.
fn top_level_names(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut names) = (0, true, Vec::new());
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            _ if c.is_whitespace() => {}
            _ if start => {
                names.push(first_word(&group[i..]));
                start = false;
            }
            _ => {}
        }
    }
    names
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.file_stem().unwrap() != "tests")
        .filter(|path| path.is_dir() || path.extension().is_some_and(|extension| extension == "rs"))
        .flat_map(|path| files(&path))
        .collect()
}
