use super::{
    super::{Fault, Operation, is_crash},
    *,
};

const ENOSPC: Option<i32> = Some(28);
const EIO: Option<i32> = Some(5);

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn operations_fail_until_the_disk_is_healed() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", b"content");
    let other = open(&disk, "/data/b");
    disk.fail(Fault::io_error().when(|path, operation| {
        path.ends_with("a") && matches!(operation, Operation::Read | Operation::Write)
    }));
    for _ in 0..3 {
        assert_eq!(errno(file.write_at(b"x", 0)), EIO);
        assert_eq!(errno(file.read_at(&mut [0], 0)), EIO);
    }
    file.sync()?;
    other.write_at(b"x", 0)?;
    disk.heal();
    file.write_at(b"C", 0)?;
    assert_eq!(disk.read("/data/a").unwrap(), b"Content");
    Ok(())
}

#[test]
fn a_fault_may_be_over_after_some_operations() -> io::Result<()> {
    let disk = disk();
    let full = Fault::no_space().when(|_, operation| operation == Operation::Create);
    disk.fail(full.times(2));
    let create = |path: &str| disk.open(Path::new(path), Open::OrCreate);
    let refused = create("/data/a").map(drop).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert!(!is_crash(&refused));
    assert_eq!(
        errno(disk.create_folder(Path::new("/data/sub")).map(drop)),
        ENOSPC
    );
    create("/data/a")?;
    assert_eq!(disk.files().len(), 1);
    assert_eq!(disk.operations(), 3);
    Ok(())
}

#[test]
fn a_write_that_fails_may_have_written_its_beginning() {
    let lengths: Vec<_> = SEEDS
        .map(|seed| {
            let (disk, file) = disk_with("/data/a", b"");
            disk.fail(Fault::io_error().leaving(seed));
            assert_eq!(errno(file.write_at(b"abc", 0)), EIO);
            let content = disk.read("/data/a").unwrap();
            assert!(b"abc".starts_with(&content));
            content.len()
        })
        .collect();
    assert!((0..=3).all(|len| lengths.contains(&len)));
}

#[test]
fn a_sync_that_fails_loses_what_was_pending_and_the_next_one_does_not_tell() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", &[b'-'; 1024]);
    let syncs = Fault::io_error().when(|_, operation| operation.is_sync());
    disk.fail(syncs.times(1));
    file.write_at(b"lost", 0)?;
    assert_eq!(errno(file.sync()), EIO);
    file.sync()?;
    assert!(disk.read("/data/a").unwrap().starts_with(b"lost"));
    file.write_at(b"kept", 512)?;
    file.sync()?;

    let after = disk.after_crash(Survival::Everything);
    let content = after.read("/data/a").unwrap();
    assert!(content.starts_with(b"----"));
    assert!(content[512..].starts_with(b"kept"));
    Ok(())
}

#[test]
fn a_sync_that_fails_may_keep_some() -> io::Result<()> {
    let mut seen = Vec::new();
    for seed in SEEDS {
        let (disk, file) = disk_with("/data/a", &[b'-'; 1024]);
        file.write_at(&[b'x'; 512], 0)?;
        file.write_at(&[b'x'; 512], 512)?;
        disk.fail(Fault::io_error().leaving(seed).times(1));
        assert_eq!(errno(disk.sync_all(&["/data".into()].into())), EIO);
        let content = disk.after_crash(Survival::Everything).read("/data/a");
        let content = content.unwrap();
        seen.push((content[0], content[512]));
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
    Ok(())
}

#[test]
fn a_folder_whose_sync_failed_may_lack_the_name_for_ever() -> io::Result<()> {
    let disk = disk();
    open(&disk, "/data/a").sync()?;
    disk.fail(Fault::io_error().times(1));
    assert_eq!(errno(sync_folder(&disk, "/data")), EIO);
    sync_folder(&disk, "/data")?;
    assert_eq!(disk.list(Path::new("/data"))?, ["a"]);
    assert_eq!(disk.after_crash(Survival::Everything).read("/data/a"), None);
    Ok(())
}

#[test]
fn nothing_grows_on_a_full_disk() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", &[1; 1000]);
    disk.set_capacity(Some(1500));
    assert_eq!(errno(file.set_len(1501)), ENOSPC);
    assert_eq!(errno(file.allocate(2000)), ENOSPC);
    assert_eq!(file.bytes()?, 1000);
    assert_eq!(errno(file.write_at(&[2; 1000], 900)), ENOSPC);
    assert_eq!(file.bytes()?, 1500, "the beginning is there");
    assert_eq!(disk.used_bytes(), 1500);

    let create = |path: &str| disk.open(Path::new(path), Open::OrCreate).map(drop);
    assert_eq!(errno(create("/data/b")), ENOSPC);
    assert_eq!(errno(file.write_at(b"x", 4000)), ENOSPC);
    assert_eq!(file.bytes()?, 1500);
    file.write_at(&[3; 1500], 0)?;
    file.allocate(1500)?;
    file.sync()?;
    assert_eq!(disk.after_crash(0).used_bytes(), 1500);
    Ok(())
}

#[test]
fn a_full_disk_has_room_again_when_something_is_given_up() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", &[1; 1000]);
    let other = open(&disk, "/data/b");
    disk.set_capacity(Some(1000));
    assert_eq!(errno(other.write_at(b"x", 0)), ENOSPC);
    file.set_len(999)?;
    other.write_at(b"x", 0)?;

    disk.remove(Path::new("/data/a"))?;
    assert_eq!(errno(other.allocate(1000)), ENOSPC, "it is still open");
    drop(file);
    other.allocate(1000)?;
    disk.set_capacity(Some(2000));
    other.allocate(2000)?;
    disk.set_capacity(None);
    other.allocate(1 << 40)
}

#[test]
fn what_cannot_meet_an_error_does_not() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", b"content");
    let lock = || file.lock().map_err(|error| error.kind());
    let remove = || disk.remove(Path::new("/data/a"));
    let open = || disk.open(Path::new("/data/a"), Open::Existing).map(drop);
    disk.fail(Fault::no_descriptors());
    file.write_at(b"C", 0)?;
    file.sync()?;
    assert_eq!(errno(open()), Some(24));
    disk.heal();
    disk.fail(Fault::locked());
    open()?;
    assert_eq!(lock(), Err(io::ErrorKind::WouldBlock));
    disk.heal();
    disk.fail(Fault::interrupted().times(1));
    disk.fail(Fault::interrupted().leaving(Survival::Everything));
    assert_eq!(lock(), Ok(()));
    assert_eq!(errno(remove()), Some(4));
    open()?;
    assert_eq!(errno(remove()), Some(4));
    assert_eq!(disk.read("/data/a"), None);
    Ok(())
}
