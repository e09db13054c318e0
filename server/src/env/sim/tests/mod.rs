mod crash;
mod failure;

use std::{io, path::Path, sync::Arc};

use super::{SimDisk, Survival};
use crate::env::{Disk, DiskFile, Open};

const SEEDS: std::ops::Range<u64> = 0..400;

fn disk() -> SimDisk {
    SimDisk::new("/data")
}

fn open(disk: &SimDisk, path: &str) -> Arc<dyn DiskFile> {
    disk.open(Path::new(path), Open::OrCreate).unwrap()
}

/// A disk on which that file is, and will be, with this content.
fn disk_with(path: &str, content: &[u8]) -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = disk();
    let file = open(&disk, path);
    file.write_at(content, 0).unwrap();
    disk.sync_all(&["/data".into()].into()).unwrap();
    (disk, file)
}

/// What a crash of this disk leaves of a file, by each seed.
fn aftermaths(disk: &SimDisk, path: &str) -> Vec<Option<Vec<u8>>> {
    SEEDS
        .map(|seed| disk.after_crash(seed).read(path))
        .collect()
}

fn sync_folder(disk: &SimDisk, folder: &str) -> io::Result<()> {
    disk.sync_folder(Path::new(folder))
}

#[test]
fn what_is_written_is_seen_at_once() -> io::Result<()> {
    let disk = disk();
    let file = open(&disk, "/data/a");
    file.write_at(b"hello", 6000)?;
    assert_eq!(file.bytes()?, 6005);

    let mut buffer = [1; 10];
    assert_eq!(file.read_at(&mut buffer, 5998)?, 7);
    assert_eq!(&buffer[..7], b"\0\0hello");
    assert_eq!(file.read_at(&mut buffer, 7000)?, 0);

    file.set_len(6002)?;
    file.allocate(6004)?;
    file.allocate(10)?;
    assert_eq!(file.bytes()?, 6004);
    let again = disk.open(Path::new("/data/a"), Open::Existing)?;
    assert_eq!(again.read_at(&mut buffer, 6000)?, 4);
    assert_eq!(&buffer[..4], b"he\0\0");
    again.lock()
}

#[test]
fn names_are_looked_up_as_in_any_file_system() -> io::Result<()> {
    let disk = disk();
    let kind = |path: &str, how| {
        let opened = disk.open(Path::new(path), how);
        opened.err().map(|error| error.kind())
    };
    let not_found = Some(io::ErrorKind::NotFound);
    assert_eq!(kind("/data/a", Open::Existing), not_found);
    assert_eq!(kind("/data/sub/a", Open::OrCreate), not_found);
    assert_eq!(kind("/data/a", Open::OrCreate), None);
    assert_eq!(
        kind("/data", Open::Existing),
        Some(io::ErrorKind::IsADirectory)
    );

    disk.create_folder(Path::new("/data/sub"))?;
    disk.create_folder(Path::new("/data/sub"))?;
    assert_eq!(kind("/data/sub/a", Open::OrCreate), None);
    assert_eq!(disk.list(Path::new("/data"))?, ["a", "sub"]);
    assert_eq!(
        disk.files(),
        ["/data/a", "/data/sub/a"].map(|path| Path::new(path).to_owned())
    );

    disk.remove(Path::new("/data/a"))?;
    let again = disk.remove(Path::new("/data/a")).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::NotFound);
    assert!(disk.list(Path::new("/other")).is_err());
    assert!(sync_folder(&disk, "/other").is_err());
    Ok(())
}

#[test]
fn a_removed_file_lives_on_in_its_handles() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", b"old");
    disk.remove(Path::new("/data/a"))?;
    sync_folder(&disk, "/data")?;
    let new = open(&disk, "/data/a");
    assert_eq!(new.bytes()?, 0);
    file.write_at(b"er", 3)?;
    file.sync()?;
    let mut buffer = [0; 5];
    assert_eq!(file.read_at(&mut buffer, 0)?, 5);
    assert_eq!(&buffer, b"older");
    Ok(())
}

#[test]
fn a_scratch_file_is_no_part_of_the_simulation() -> io::Result<()> {
    let disk = disk();
    disk.set_capacity(Some(0));
    let scratch = disk.scratch(Path::new("/data"))?;
    scratch.write_at(b"abc", 2)?;
    scratch.sync()?;
    scratch.set_len(4)?;
    let mut buffer = [1; 8];
    assert_eq!(scratch.read_at(&mut buffer, 0)?, 4);
    assert_eq!(&buffer[..4], b"\0\0ab");
    assert_eq!(disk.operations(), 0);
    assert!(disk.files().is_empty());
    Ok(())
}

#[test]
fn files_can_be_copied_to_a_real_folder() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", b"begin");
    file.set_len(1 << 20)?;
    file.write_at(b"end", (1 << 20) - 3)?;
    disk.create_folder(Path::new("/data/sub"))?;
    open(&disk, "/data/sub/b");

    let folder = tempfile::tempdir()?;
    disk.export(folder.path())?;
    let copied = std::fs::read(folder.path().join("data/a"))?;
    assert_eq!(Some(copied), disk.read("/data/a"));
    assert_eq!(std::fs::read(folder.path().join("data/sub/b"))?, b"");
    Ok(())
}

#[test]
fn a_run_is_a_function_of_its_operations_and_seeds() {
    let run = |seed: u64| {
        let (disk, file) = disk_with("/data/a", &[1; 9000]);
        for n in 0..20_u64 {
            file.write_at(&[n as u8; 3000], n * 700).unwrap();
            open(&disk, &format!("/data/{n}"));
        }
        let after = disk.after_crash(seed);
        let content = |path| after.read(path);
        let files = after.files();
        let contents: Vec<_> = files.iter().map(content).collect();
        (files, contents)
    };
    let runs: Vec<_> = SEEDS.map(run).collect();
    assert_eq!(runs, SEEDS.map(run).collect::<Vec<_>>());
    let mut different = runs;
    different.sort();
    different.dedup();
    assert!(different.len() > 200, "{}", different.len());
}

#[test]
fn handles_may_be_used_from_any_thread() {
    fn of_any_thread<T: Send + Sync + 'static>(_: &T) {}
    of_any_thread(&disk());
    of_any_thread(&open(&disk(), "/data/a"));
    of_any_thread(&Survival::Nothing);
}
