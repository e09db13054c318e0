use super::{super::is_crash, *};

#[test]
fn content_survives_by_a_sync_of_the_file() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", b"one");
    file.write_at(b"two", 0)?;
    let after = |survival| disk.after_crash(survival).read("/data/a");
    assert_eq!(after(Survival::Nothing).unwrap(), b"one");
    assert_eq!(after(Survival::Everything).unwrap(), b"two");

    let (disk, file) = disk_with("/data/a", b"one");
    file.write_at(b"two", 0)?;
    file.sync()?;
    for content in aftermaths(&disk, "/data/a") {
        assert_eq!(content.unwrap(), b"two");
    }
    Ok(())
}

#[test]
fn a_name_survives_by_a_sync_of_its_folder() -> io::Result<()> {
    let disk = disk();
    let file = open(&disk, "/data/a");
    file.write_at(b"content", 0)?;
    file.sync()?;
    assert_eq!(disk.after_crash(Survival::Nothing).read("/data/a"), None);
    let aftermaths = aftermaths(&disk, "/data/a");
    assert!(aftermaths.contains(&None));
    assert!(aftermaths.contains(&Some(b"content".to_vec())));

    let disk = super::disk();
    open(&disk, "/data/a").write_at(b"content", 0)?;
    sync_folder(&disk, "/data")?;
    let after = disk.after_crash(Survival::Nothing);
    assert_eq!(after.read("/data/a").unwrap(), b"");
    Ok(())
}

#[test]
fn a_folder_survives_by_a_sync_of_its_parent() -> io::Result<()> {
    let made = || {
        let disk = disk();
        disk.create_folder(Path::new("/data/sub"))?;
        open(&disk, "/data/sub/a").sync()?;
        sync_folder(&disk, "/data/sub")?;
        io::Result::Ok(disk)
    };
    let after = made()?.after_crash(Survival::Nothing);
    assert!(after.files().is_empty());
    assert!(after.list(Path::new("/data/sub")).is_err());

    let disk = made()?;
    sync_folder(&disk, "/data")?;
    let after = disk.after_crash(Survival::Nothing);
    assert_eq!(after.list(Path::new("/data/sub"))?, ["a"]);
    Ok(())
}

#[test]
fn a_removal_survives_by_a_sync_of_the_folder() -> io::Result<()> {
    let (disk, _file) = disk_with("/data/a", b"old");
    disk.remove(Path::new("/data/a"))?;
    open(&disk, "/data/a").write_at(b"new", 0)?;
    let after = disk.after_crash(Survival::Nothing);
    assert_eq!(after.read("/data/a").unwrap(), b"old");
    let aftermaths = aftermaths(&disk, "/data/a");
    for possible in [None, Some(b"old".to_vec()), Some(b"new".to_vec())] {
        assert!(aftermaths.contains(&possible), "{possible:?}");
    }

    let (disk, _file) = disk_with("/data/a", b"old");
    disk.remove(Path::new("/data/a"))?;
    sync_folder(&disk, "/data")?;
    assert!(super::aftermaths(&disk, "/data/a").contains(&None));
    assert_eq!(disk.after_crash(Survival::Nothing).read("/data/a"), None);
    Ok(())
}

#[test]
fn sync_all_syncs_contents_and_names_alike() -> io::Result<()> {
    let disk = disk();
    disk.create_folder(Path::new("/data/sub"))?;
    open(&disk, "/data/sub/a").write_at(b"content", 0)?;
    open(&disk, "/data/b");
    disk.sync_all(&["/data".into()].into())?;
    let after = disk.after_crash(Survival::Nothing);
    assert_eq!(after.read("/data/sub/a").unwrap(), b"content");
    assert_eq!(after.files().len(), 2);
    Ok(())
}

#[test]
fn a_write_is_torn_between_sectors_and_nowhere_else() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", &[b'-'; 4096]);
    file.write_at(&[b'x'; 3000], 700)?;
    let expected = |sector: usize| {
        let old = vec![b'-'; 512];
        let mut new = vec![b'x'; 512];
        match sector {
            1 => new[..188].fill(b'-'),
            7 => new[116..].fill(b'-'),
            _ => {}
        }
        (old, new)
    };
    let mut seen = std::collections::BTreeSet::new();
    for content in aftermaths(&disk, "/data/a") {
        let content = content.unwrap();
        assert_eq!(content.len(), 4096);
        let mut kept = String::new();
        for (sector, bytes) in content.chunks(512).enumerate() {
            let (old, new) = expected(sector);
            assert!(bytes == old || bytes == new, "sector {sector}: {bytes:?}");
            kept.push(if bytes == old { '-' } else { 'x' });
        }
        seen.insert(kept);
    }
    let prefixes = ["-xxx----", "-xxxxx--"];
    let single_losses = ["-xxx-xxx", "--xxxxxx"];
    for telling in ["--------", "-xxxxxxx"]
        .iter()
        .chain(&prefixes)
        .chain(&single_losses)
    {
        assert!(seen.contains(*telling), "{telling} of {seen:?}");
    }
    assert!(seen.len() > 30, "{seen:?}");
    Ok(())
}

#[test]
fn writes_reach_the_disk_in_any_order() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", &[b'-'; 2048]);
    for (offset, byte) in [(0, b'1'), (512, b'2'), (1024, b'3')] {
        file.write_at(&[byte; 512], offset)?;
    }
    let mut seen: Vec<_> = aftermaths(&disk, "/data/a")
        .into_iter()
        .map(|content| {
            content
                .unwrap()
                .into_iter()
                .step_by(512)
                .collect::<Vec<_>>()
        })
        .collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 8, "every subset: {seen:?}");
    Ok(())
}

#[test]
fn a_sector_brings_along_what_was_written_to_it_before() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", b"");
    file.write_at(b"first", 0)?;
    file.write_at(b"second", 5)?;
    let mut seen = aftermaths(&disk, "/data/a");
    seen.sort();
    seen.dedup();
    let content = |aftermath: &Option<Vec<u8>>| aftermath.clone().unwrap();
    let zeros = |aftermath: &Vec<u8>| aftermath.iter().all(|byte| *byte == 0);
    seen.retain(|aftermath| !zeros(&content(aftermath)));
    // The length of a lost write may have been kept.
    let starts_whole = |content: Vec<u8>| content.starts_with(b"first");
    assert!(seen.iter().map(content).all(starts_whole), "{seen:?}");
    assert!(seen.contains(&Some(b"first".to_vec())));
    assert!(seen.contains(&Some(b"firstsecond".to_vec())));
    Ok(())
}

#[test]
fn a_length_is_kept_or_lost_apart_from_the_writes_around_it() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", &[1; 1024]);
    file.set_len(0)?;
    file.write_at(&[2; 512], 1024)?;
    let aftermaths = aftermaths(&disk, "/data/a");
    let pieces = |pieces: &[(u8, usize)]| {
        let piece = |&(byte, len): &(u8, usize)| vec![byte; len];
        Some(pieces.iter().flat_map(piece).collect::<Vec<u8>>())
    };
    for possible in [
        pieces(&[(1, 1024)]),
        pieces(&[]),
        pieces(&[(1, 1024), (2, 512)]),
        pieces(&[(0, 1024), (2, 512)]),
        pieces(&[(0, 1536)]),
    ] {
        assert!(aftermaths.contains(&possible), "{possible:?}");
    }

    let (disk, file) = disk_with("/data/a", b"a");
    file.allocate(1 << 20)?;
    file.write_at(b"b", 9)?;
    let lengths: Vec<_> = super::aftermaths(&disk, "/data/a")
        .into_iter()
        .map(|content| content.unwrap().len())
        .collect();
    // A sector within the visible length is written whole.
    for possible in [1, 512, 1 << 20] {
        assert!(lengths.contains(&possible), "{possible}");
    }
    Ok(())
}

#[test]
fn the_power_goes_at_the_chosen_operation() -> io::Result<()> {
    let run = |disk: &SimDisk| -> io::Result<()> {
        let file = disk.open(Path::new("/data/a"), Open::OrCreate)?;
        file.write_at(b"content", 0)?;
        file.set_len(3)?;
        file.allocate(4)?;
        file.sync()?;
        disk.create_folder(Path::new("/data/sub"))?;
        disk.sync_folder(Path::new("/data"))?;
        disk.remove(Path::new("/data/a"))?;
        disk.sync_all(&["/data".into()].into())
    };
    let whole = disk();
    run(&whole)?;
    assert_eq!(whole.operations(), 9);

    for n in 1..=9 {
        let disk = disk();
        disk.crash_at(n);
        let error = run(&disk).unwrap_err();
        assert!(is_crash(&error), "{error}");
        assert!(disk.has_crashed());
        assert_eq!(disk.operations(), n);
        assert!(is_crash(&disk.list(Path::new("/data")).unwrap_err()));
        assert!(disk.open(Path::new("/data/a"), Open::Existing).is_err());
        let after = disk.after_crash(Survival::Everything);
        let content: Option<&[u8]> = match n {
            1 | 9 => None,
            2 => Some(b""),
            3 => Some(b"content"),
            4 => Some(b"con"),
            _ => Some(b"con\0"),
        };
        assert_eq!(after.read("/data/a").as_deref(), content, "{n}");
        let removed = disk.after_crash(Survival::Nothing).read("/data/a");
        assert_eq!(removed.is_some(), n >= 8, "{n}");
    }
    Ok(())
}

#[test]
fn the_write_that_the_crash_cut_short_may_be_there_in_part() {
    let (disk, file) = disk_with("/data/a", &[1; 1024]);
    disk.crash_at(disk.operations() + 1);
    assert!(is_crash(&file.write_at(&[2; 1024], 0).unwrap_err()));
    let old = Some(vec![1; 1024]);
    for survival in [Survival::Nothing, Survival::Everything] {
        assert_eq!(disk.after_crash(survival).read("/data/a"), old);
    }
    let aftermaths = aftermaths(&disk, "/data/a");
    let torn = [vec![2; 512], vec![1; 512]].concat();
    for possible in [old, Some(torn), Some(vec![2; 1024])] {
        assert!(aftermaths.contains(&possible));
    }
}

#[test]
fn a_sync_that_the_crash_cut_short_may_have_synced_a_part() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", b"----");
    let other = open(&disk, "/data/b");
    sync_folder(&disk, "/data")?;
    file.write_at(b"aaaa", 0)?;
    other.write_at(b"bbbb", 0)?;
    disk.crash_at(disk.operations() + 1);
    assert!(is_crash(
        &disk.sync_all(&["/data".into()].into()).unwrap_err()
    ));
    let mut seen: Vec<_> = SEEDS
        .map(|seed| disk.after_crash(seed))
        .map(|after| {
            let has = |path, content: &[u8]| after.read(path).as_deref() == Some(content);
            (has("/data/a", b"aaaa"), has("/data/b", b"bbbb"))
        })
        .collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
    Ok(())
}

#[test]
fn handles_from_before_a_crash_are_dead_for_ever() -> io::Result<()> {
    let (disk, file) = disk_with("/data/a", b"content");
    let after = disk.after_crash(7);
    let again = open(&after, "/data/a");
    again.write_at(b"CON", 0)?;

    let mut buffer = [0; 7];
    let failures = [
        file.read_at(&mut buffer, 0).map(drop),
        file.write_at(b"x", 0),
        file.bytes().map(drop),
        file.set_len(0),
        file.allocate(9),
        file.sync(),
        file.lock(),
        disk.remove(Path::new("/data/a")),
        disk.scratch(Path::new("/data")).map(drop),
        disk.sync_all(&["/data".into()].into()),
    ];
    for failure in failures {
        assert!(is_crash(&failure.unwrap_err()));
    }
    assert_eq!(again.read_at(&mut buffer, 0)?, 7);
    assert_eq!(&buffer, b"CONtent");
    Ok(())
}

#[test]
fn a_disk_crashes_again_and_again() -> io::Result<()> {
    let (mut disk, _) = disk_with("/data/a", b"");
    for round in 1..=20_u8 {
        let file = open(&disk, "/data/a");
        file.write_at(&[round], u64::from(round) - 1)?;
        file.sync()?;
        file.write_at(&[99; 3000], 1 << 20)?;
        file.set_len(u64::from(round))?;
        file.sync()?;
        disk = disk.after_crash(u64::from(round));
        assert_eq!(disk.operations(), 0);
    }
    assert_eq!(disk.read("/data/a"), Some((1..=20).collect()));
    Ok(())
}
