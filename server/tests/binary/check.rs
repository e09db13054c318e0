//! What `check` says of a data folder.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::vat::{Ended, Vat, files, run};

/// What `check` ended with, and the lines that it printed.
fn check(folder: &Path) -> (Option<i32>, Vec<String>) {
    let Ended { code, out, err } = run(folder, ["check", "--data", "data"]);
    // How far it is, if it takes long.
    let is_progress = |line: &str| {
        line.starts_with("recovering from the journal") || line.starts_with("looking at objects")
    };
    assert!(err.lines().all(is_progress), "{err}");
    (code, out.lines().map(str::to_owned).collect())
}

/// The problems and notes, of which there must be a problem.
#[track_caller]
fn problems(folder: &Path) -> Vec<String> {
    let (code, mut lines) = check(folder);
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(lines.pop().unwrap().starts_with("summary: "));
    lines
}

/// A vat with some objects, awake.
fn vat(folder: &Path) -> Vat {
    let vat = Vat::listening(folder, &["tcp:127.0.0.1:0", "unix:data/vat.sock"]);
    for name in ["one", "two"] {
        vat.call("Counter", name, "increment", "{}");
    }
    let table = "CREATE TABLE t AS WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c \
                 WHERE x < 2000) SELECT x, hex(x) FROM c";
    vat.printed(&["sql", "Cell", "table", table]);
    vat
}

/// A data folder that such a vat has left in order.
fn stopped() -> TempDir {
    let folder = tempdir().unwrap();
    let mut vat = vat(folder.path());
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
    folder
}

/// A data folder that such a vat has left as it stood.
fn killed() -> TempDir {
    let folder = tempdir().unwrap();
    vat(folder.path()).kill();
    folder
}

/// The object's file, by what `objects list` says of it, as a path in the folder.
fn file_of(folder: &TempDir, class: &str, name: &str) -> String {
    let vat = Vat::start(folder.path());
    let listed = vat.printed(&["objects", "list", class, "--prefix", name]);
    let id = listed.split('\t').nth(1).unwrap().to_owned();
    stop(vat);
    let mut files = objects(folder);
    files.retain(|file| file.to_string_lossy().contains(&id));
    let file = files.pop().unwrap();
    file.strip_prefix(folder.path())
        .unwrap()
        .display()
        .to_string()
}

fn stop(mut vat: Vat) {
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
}

fn objects(folder: &TempDir) -> Vec<PathBuf> {
    files(&folder.path().join("data/objects"))
}

/// Everything in the folder's files.
fn content(folder: &TempDir) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |path: PathBuf| Some((path.clone(), fs::read(path).ok()?));
    files(&folder.path().join("data"))
        .into_iter()
        .filter_map(read)
        .collect()
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[test]
fn after_a_stop_everything_is_well_and_nothing_is_changed() {
    let folder = stopped();
    let before = content(&folder);
    let well = "summary: 3 objects, 0 commits recovered, 0 problems, 0 notes";
    assert_eq!(check(folder.path()), (Some(0), vec![well.into()]));
    assert_eq!(content(&folder), before);
}

#[test]
fn after_a_kill_it_recovers_as_a_start_would_and_everything_is_well() {
    let folder = killed();
    assert!(objects(&folder).is_empty(), "everything is in the journal");
    let (code, lines) = check(folder.path());
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(lines[0].starts_with("summary: 3 objects, "), "{lines:?}");
    assert!(!lines[0].contains(" 0 commits recovered"), "{lines:?}");
    assert_eq!(objects(&folder).len(), 3, "and nothing is beside them");
    let well = "summary: 3 objects, 0 commits recovered, 0 problems, 0 notes";
    assert_eq!(check(folder.path()), (Some(0), vec![well.into()]));
    let vat = Vat::start(folder.path());
    assert_eq!(vat.call("Counter", "one", "get", "{}"), r#"{"count":1}"#);
}

#[test]
fn a_flipped_byte_in_the_structure_of_a_database_is_found() {
    let folder = stopped();
    let file = file_of(&folder, "Cell", "table");
    // The kind of the second page.
    flip(&folder.path().join(&file), 4096);
    let found = problems(folder.path());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with(&format!("damaged: {file}: ")),
        "{found:?}"
    );
    // The first bytes say that it is a database at all.
    flip(&folder.path().join(&file), 0);
    let found = problems(folder.path());
    assert_eq!(found, [format!("damaged: {file}: file is not a database")]);
}

#[test]
fn a_flipped_byte_in_the_catalog_is_found() {
    let folder = stopped();
    flip(&folder.path().join("data/catalog.sqlite"), 4096);
    let found = problems(folder.path());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("damaged: data/catalog.sqlite: "),
        "{found:?}"
    );
}

#[test]
fn a_file_that_was_removed_is_missed() {
    let folder = stopped();
    let file = file_of(&folder, "Counter", "one");
    fs::remove_file(folder.path().join(&file)).unwrap();
    let found = problems(folder.path());
    assert_eq!(found.len(), 1, "{found:?}");
    let told = format!("missing: {file}: the object \"one\" is listed and has no file");
    assert!(found[0].starts_with(&told), "{found:?}");
    fs::remove_file(folder.path().join("data/catalog.sqlite")).unwrap();
    let found = problems(folder.path());
    assert_eq!(found.len(), 1, "{found:?}");
    let told = "missing: data/catalog.sqlite: there are objects, and no catalog; `vatwerk check \
                --rebuild-catalog` makes it anew";
    assert_eq!(found[0], told);
}

#[test]
fn it_stays_red_until_the_loss_of_an_object_is_accepted() {
    let folder = stopped();
    let file = file_of(&folder, "Counter", "one");
    fs::remove_file(folder.path().join(&file)).unwrap();
    let refused = |folder: &TempDir| {
        let vat = Vat::start(folder.path());
        let told = vat.run(&["call", "Counter", "one", "increment", "{}"]);
        stop(vat);
        told
    };
    for _ in 0..2 {
        let told = refused(&folder).failed(1);
        assert!(told.contains("storage-damaged: "), "{told}");
        let found = problems(folder.path());
        assert!(found[0].contains("--accept-losses"), "{found:?}");
    }
    let accept = ["check", "--data", "data", "--accept-losses"];
    let told = run(folder.path(), accept).printed();
    assert!(told.contains("note: "), "{told}");
    assert!(told.contains("the object \"one\" is lost"), "{told}");
    assert!(told.contains(" 0 problems, 1 notes"), "{told}");
    assert_eq!(check(folder.path()).0, Some(0));
    // The others are there, and the lost one begins anew.
    let vat = Vat::start(folder.path());
    assert_eq!(vat.call("Counter", "two", "get", "{}"), r#"{"count":1}"#);
    assert_eq!(
        vat.call("Counter", "one", "increment", "{}"),
        r#"{"count":1}"#
    );
    assert_eq!(vat.printed(&["objects", "count", "Counter"]).trim(), "2");
    stop(vat);
    assert_eq!(check(folder.path()).0, Some(0));
}

#[test]
fn a_catalog_that_is_gone_or_damaged_is_made_anew_from_the_objects() {
    for damage in ["gone", "empty", "damaged", "forgetful"] {
        let folder = tempdir().unwrap();
        let mut vat = vat(folder.path());
        vat.printed(&["sql", "Cell", "nameless", "CREATE TABLE t (a)"]);
        let listed = |vat: &Vat| {
            ["Counter", "Cell"].map(|class| {
                let listed = vat.printed(&["objects", "list", class]);
                let first = |line: &str| line.split('\t').take(2).collect::<Vec<_>>().join(" ");
                listed.lines().map(first).collect::<Vec<_>>()
            })
        };
        let before = listed(&vat);
        vat.signal(libc::SIGTERM);
        assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
        let catalog = folder.path().join("data/catalog.sqlite");
        match damage {
            "gone" => fs::remove_file(&catalog).unwrap(),
            "empty" => fs::write(&catalog, "").unwrap(),
            "damaged" => fs::write(&catalog, vec![7; 20_000]).unwrap(),
            _ => {
                let connection = Connection::open(&catalog).unwrap();
                connection
                    .execute_batch("DELETE FROM objects WHERE name = 'one'")
                    .unwrap();
                connection.close().unwrap();
            }
        }
        if damage != "forgetful" {
            let refused = run(folder.path(), ["serve", "--data", "data"]).failed(1);
            assert!(
                damage == "damaged" || refused.contains("--rebuild-catalog"),
                "{refused}"
            );
        }
        let rebuilt = run(
            folder.path(),
            ["check", "--data", "data", "--rebuild-catalog"],
        );
        assert_eq!(
            rebuilt.code,
            Some(0),
            "{damage}: {} {}",
            rebuilt.out,
            rebuilt.err
        );
        let entered = if damage == "forgetful" { 1 } else { 4 };
        let told = format!("{entered} objects were entered");
        assert!(rebuilt.out.contains(&told), "{}", rebuilt.out);
        let kept = folder.path().join("data/catalog.sqlite.damaged");
        assert_eq!(kept.exists(), ["empty", "damaged"].contains(&damage));
        let vat = Vat::listening(folder.path(), &["tcp:127.0.0.1:0", "unix:data/vat.sock"]);
        assert_eq!(listed(&vat), before);
        assert!(vat.call("Counter", "one", "increment", "{}").contains('2'));
        stop(vat);
        assert_eq!(check(folder.path()).0, Some(0));
    }
}

#[test]
fn a_file_that_was_cut_is_found() {
    let folder = stopped();
    let file = file_of(&folder, "Cell", "table");
    for bytes in [5000, 4096, 0] {
        let cut = File::options()
            .write(true)
            .open(folder.path().join(&file))
            .unwrap();
        cut.set_len(bytes).unwrap();
        let found = problems(folder.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with(&format!("damaged: {file}: ")),
            "{found:?}"
        );
    }
}

#[test]
fn a_damaged_journal_is_told_by_check_and_serve_and_nothing_is_changed() {
    let folder = killed();
    let segment = "data/journal/0000.segment";
    // In the first record: later ones say that it was durable.
    flip(&folder.path().join(segment), 4096 + 100);
    let before = content(&folder);
    let found = problems(folder.path());
    let told = format!(
        "damaged: {segment}: byte 4096: the record of LSN 1 was durable and is not whole; nothing \
         was changed, and nothing else was looked at"
    );
    assert_eq!(found, [told]);
    let serve = ["serve", "--data", "data", "--listen", "tcp:127.0.0.1:0"];
    let error = run(folder.path(), serve).failed(1);
    let told = format!("error: the journal is damaged: {segment}, at byte 4096: ");
    assert!(error.starts_with(&told), "{error}");
    assert_eq!(content(&folder), before);
}

#[test]
fn what_belongs_elsewhere_is_found() {
    let folder = stopped();
    let [one, two] = ["one", "two"].map(|name| file_of(&folder, "Counter", name));
    let [first, second] = [&one, &two].map(|file| folder.path().join(file));
    let aside = folder.path().join("aside");
    let exchange = || -> io::Result<()> {
        fs::rename(&first, &aside)?;
        fs::rename(&second, &first)?;
        fs::rename(&aside, &second)
    };
    exchange().unwrap();
    let mut found = problems(folder.path());
    found.sort();
    let mut told = [(&one, "two"), (&two, "one")].map(|(file, name)| {
        format!("misplaced: {file}: it is the database of the object named \"{name}\"")
    });
    told.sort();
    assert_eq!(found, told);
    exchange().unwrap();

    let name = first.file_name().unwrap();
    let wrong = first.parent().unwrap().with_file_name("zz").join(name);
    fs::create_dir(wrong.parent().unwrap()).unwrap();
    fs::rename(&first, &wrong).unwrap();
    let found = problems(folder.path());
    assert!(found[0].starts_with("misplaced: "), "{found:?}");
    assert!(
        found[0].ends_with(&format!(": its place is {one}")),
        "{found:?}"
    );
    assert!(
        found[1].starts_with(&format!("missing: {one}: ")),
        "{found:?}"
    );
    fs::rename(&wrong, &first).unwrap();

    // A class of which it has no objects.
    let class = first.ancestors().nth(2).unwrap();
    let other = class.with_file_name("00000000000000ff");
    let copy = other.join(first.strip_prefix(class).unwrap());
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    fs::copy(&first, copy).unwrap();
    let found = problems(folder.path());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].ends_with(": its id is not one of this class"),
        "{found:?}"
    );
}

#[test]
fn an_object_that_the_catalog_does_not_list_is_found() {
    let folder = stopped();
    let file = file_of(&folder, "Counter", "one");
    let catalog = Connection::open(folder.path().join("data/catalog.sqlite")).unwrap();
    catalog
        .execute("DELETE FROM objects WHERE name = 'one'", [])
        .unwrap();
    catalog.close().unwrap();
    let found = problems(folder.path());
    assert_eq!(
        found,
        [format!(
            "unlisted: {file}: the catalog does not list this object; `vatwerk check \
             --rebuild-catalog` enters it"
        )]
    );
}

#[test]
fn what_is_no_vats_and_what_has_not_come_into_being_is_noted() {
    let folder = stopped();
    let file = file_of(&folder, "Counter", "one");
    let object = Connection::open(folder.path().join(&file)).unwrap();
    object
        .execute("DELETE FROM _vw_meta WHERE key = 'created_ms'", [])
        .unwrap();
    object.close().unwrap();
    let strangers = [
        "data/notes.txt".to_owned(),
        "data/journal/core".to_owned(),
        "data/objects/README".to_owned(),
        format!("{file}-wal"),
    ];
    for stranger in &strangers {
        fs::write(folder.path().join(stranger), "text").unwrap();
    }
    let (code, mut lines) = check(folder.path());
    assert_eq!(code, Some(0), "{lines:?}");
    let summary = lines.pop().unwrap();
    assert_eq!(
        summary,
        "summary: 3 objects, 0 commits recovered, 0 problems, 5 notes"
    );
    let unborn =
        format!("note: {file}: this object has not come into being; its next call makes it");
    assert!(lines.contains(&unborn), "{lines:?}");
    for stranger in strangers {
        let told = format!("note: {stranger}: no vat has made this");
        assert!(lines.contains(&told), "{lines:?}");
    }
}

#[test]
fn a_folder_in_use_is_refused() {
    let folder = tempdir().unwrap();
    let _vat = vat(folder.path());
    let error = run(folder.path(), ["check"]).failed(1);
    assert_eq!(
        error,
        "error: the data folder data is in use by another vat\n"
    );
}

#[test]
fn a_folder_of_a_newer_format_is_refused() {
    let folder = killed();
    fs::write(folder.path().join("data/format"), "vatwerk 99\n").unwrap();
    let before = content(&folder);
    let error = run(folder.path(), ["check"]).failed(1);
    assert!(error.contains("format 99"), "{error}");
    assert_eq!(content(&folder), before);
}

#[test]
fn what_is_no_data_folder_is_not_made_one() {
    let folder = tempdir().unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    for data in ["empty", "missing"] {
        let error = run(folder.path(), ["check", "--data", data]).failed(1);
        let told = format!("error: {data} is not the data folder of a vat");
        assert!(error.starts_with(&told), "{error}");
    }
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
    assert!(!folder.path().join("missing").exists());
    run(folder.path(), ["check", "data"]).failed(2);
}

#[test]
fn for_programs_it_is_json() {
    let folder = stopped();
    let file = file_of(&folder, "Counter", "one");
    fs::write(folder.path().join(&file), "").unwrap();
    let Ended { code, out, .. } = run(folder.path(), ["check", "--output", "json"]);
    assert_eq!(code, Some(1));
    let found: Value = serde_json::from_str(&out).unwrap();
    let told = json!([
        {"code": "damaged", "path": file, "text": "the file is empty"},
        {"code": "summary", "objects": 3, "recovered": 0, "problems": 1, "notes": 0},
    ]);
    assert_eq!(found, told);
}
