//! Large commits, whose pages are written beside the journal while other objects go on.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use vatwerk::ObjectId;

use super::vat::{self, DATA, Vat};
use crate::{
    Error, Result,
    env::{
        Disk, DiskFile, Open,
        sim::{Fault, Operation, SimDisk, Survival},
    },
    folder::{DatabaseId, Layout},
    journal::{Driver, Journal, Settings as JournalSettings, testing::Hold},
    storage::{Backing, Settings, Storage, Vfs},
};

fn id(class: u64) -> DatabaseId {
    DatabaseId {
        class,
        object: ObjectId([7; ObjectId::LEN]),
    }
}

fn start(disk: &SimDisk) -> Vat {
    Vat::start(disk, &vat::settings(80 << 10)).expect("the journal opens")
}

fn open(vat: &Vat, class: u64) -> Storage {
    Storage::open(&vat.vfs, id(class), &Settings::default()).expect("it opens")
}

/// Puts so many pairs in one commit; some 40 are a large one.
fn put(storage: &Storage, prefix: &str, pairs: u32) -> Result<()> {
    storage.enter_turn();
    let put = |n| {
        let key = format!("{prefix}{n}");
        storage.kv().put_bytes(&key, &[1; 4000])
    };
    (0..pairs).try_for_each(put)?;
    storage.commit_turn().map(drop)
}

/// How many keys the objects of these classes have.
fn found<const N: usize>(disk: &SimDisk, classes: [u64; N]) -> [usize; N] {
    let vat = start(disk);
    classes.map(|class| open(&vat, class).keys().len())
}

fn files_beside(disk: &SimDisk) -> Vec<PathBuf> {
    let mut files = disk.files();
    files.retain(|path| is_beside(path));
    files
}

fn is_beside(path: &Path) -> bool {
    path.extension().is_some_and(|name| name == "pages")
}

/// A vat in which object 1 has made a large commit whose pages are not written, and object 2 one that is
/// durable.
fn large_and_small() -> (Vat, Storage, Storage) {
    let vat = start(&vat::new_disk());
    let (large, small) = (open(&vat, 1), open(&vat, 2));
    put(&large, "before", 1).unwrap();
    vat.hold_pages();
    put(&large, "large", 40).unwrap();
    put(&small, "small", 1).unwrap();
    assert_eq!(vat.journal().is_durable(small.newest()), Ok(true));
    assert_eq!(vat.journal().is_durable(large.newest()), Ok(false));
    (vat, large, small)
}

#[test]
fn only_its_own_object_waits_for_a_large_commit() {
    let (vat, large, small) = large_and_small();
    assert!(large.is_ahead() && !small.is_ahead());
    assert_eq!(large.keys().len(), 41, "it is read before it is on disk");
    let promised = large.newest();
    assert!(!vat.journal().has_order(promised));
    let early = vat.disk.after_crash(Survival::Everything);
    assert_eq!(found(&early, [1, 2]), [1, 1], "there is no record yet");

    let (vat, large, small) = large_and_small();
    let promised = large.newest();
    vat.release_pages();
    assert!(!large.is_ahead() && vat.journal().has_order(promised));
    assert_eq!(vat.journal().is_durable(promised), Ok(true));
    assert_eq!(vat.journal().is_durable(large.newest()), Ok(true));
    put(&large, "after", 1).unwrap();
    drop((large, small));
    let disk = vat.disk.after_crash(Survival::Nothing);
    assert_eq!(found(&disk, [1, 2]), [42, 1]);
    assert!(files_beside(&disk).is_empty(), "a start removes them");
}

#[test]
fn pages_that_cannot_be_written_undo_their_own_commit_alone() {
    for fails in [
        Operation::Create,
        Operation::Write,
        Operation::Sync,
        Operation::SyncFolder,
    ] {
        let (vat, large, small) = large_and_small();
        let promised = large.newest();
        let failures = vat.journal().failures();
        let journal = Layout::new(Path::new(DATA)).journal();
        let pages = move |path: &Path, operation| {
            operation == fails && (is_beside(path) || path == journal)
        };
        vat.disk.fail(Fault::io_error().when(pages).times(1));
        vat.release_pages();
        let lost = vat.journal().is_durable(promised);
        assert!(matches!(lost, Err(Error::StorageFailed(_))), "{lost:?}");
        assert!(!vat.journal().is_down() && vat.journal().failures() == failures);
        assert!(files_beside(&vat.disk).is_empty(), "{fails:?}");
        put(&small, "more", 1).unwrap();
        // What the object has in memory is of no use: nothing is built on it.
        assert!(put(&large, "after", 1).is_err());
        large.close().unwrap();
        let large = open(&vat, 1);
        assert_eq!(large.keys(), ["before0"]);
        put(&large, "again", 40).unwrap();
        drop((large, small));
        let disk = vat.disk.after_crash(Survival::Nothing);
        assert_eq!(found(&disk, [1, 2]), [41, 2], "{fails:?}");
    }
}

#[test]
fn what_follows_a_large_commit_of_the_same_object_comes_after_it() {
    // Another commit, though a turn would not have begun.
    let (vat, large, small) = large_and_small();
    put(&large, "after", 1).unwrap();
    assert_eq!(vat.journal().is_durable(large.newest()), Ok(true));
    drop((large, small));
    let disk = vat.disk.after_crash(Survival::Nothing);
    assert_eq!(found(&disk, [1, 2]), [42, 1]);

    // The object sleeps, and wakes.
    let (vat, large, small) = large_and_small();
    large.close().unwrap();
    let large = open(&vat, 1);
    assert_eq!((large.keys().len(), large.is_ahead()), (41, true));
    vat.release_pages();
    assert_eq!(vat.journal().is_durable(large.newest()), Ok(true));
    drop((large, small));

    // Its end.
    let (vat, large, small) = large_and_small();
    large.close().unwrap();
    let backing = Backing::open(&vat.vfs, id(1)).unwrap();
    let end = backing.delete(backing.failures()).unwrap();
    assert_eq!(vat.journal().is_durable(end), Ok(true));
    drop((backing, small));
    let disk = vat.disk.after_crash(Survival::Nothing);
    assert_eq!(found(&disk, [1, 2]), [0, 1]);
}

#[test]
fn a_large_commit_is_not_built_on_what_did_not_happen() {
    let (vat, large, small) = large_and_small();
    let promised = large.newest();
    let syncs = |path: &Path, operation| {
        operation == Operation::Sync && path.extension().is_some_and(|name| name == "segment")
    };
    vat.disk.fail(Fault::io_error().when(syncs).times(2));
    put(&small, "void", 1).unwrap();
    assert!(vat.journal().is_durable(small.newest()).is_err());
    assert!(!vat.journal().is_down());
    // It may have looked at what is void.
    vat.release_pages();
    assert!(vat.journal().is_durable(promised).is_err());
    drop((large, small));
    let disk = vat.disk.after_crash(Survival::Nothing);
    assert_eq!(found(&disk, [1, 2]), [1, 1]);
}

#[test]
fn a_catalog_that_commits_much_waits_for_the_disk() {
    let vat = start(&vat::new_disk());
    let catalog = Storage::open(&vat.vfs, DatabaseId::CATALOG, &Settings::default()).unwrap();
    vat.hold_pages();
    put(&catalog, "large", 40).unwrap();
    // Whatever objects commit from now on may be built on it.
    assert_eq!(vat.journal().is_durable(catalog.newest()), Ok(true));
}

#[test]
fn a_thread_writes_the_pages_while_others_commit() {
    let slow = SlowDisk::default();
    let layout = Layout::new(Path::new(DATA));
    let settings = JournalSettings {
        driver: Driver::Threads,
        ..vat::settings(80 << 10)
    };
    let disk = Arc::new(slow.clone());
    let (journal, _) = Journal::open_held(disk, &layout, &settings, Hold::default()).unwrap();
    let vfs = Vfs::register(journal);
    let open = |class| Storage::open(&vfs, id(class), &Settings::default()).unwrap();
    let (large, small) = (open(1), open(2));
    slow.set_slow(true);
    put(&large, "large", 40).unwrap();
    slow.wait_until_slow();
    for n in 0..3 {
        put(&small, &n.to_string(), 1).unwrap();
        while vfs.journal().is_durable(small.newest()) == Ok(false) {
            thread::yield_now();
        }
    }
    assert_eq!(vfs.journal().is_durable(large.newest()), Ok(false));
    slow.set_slow(false);
    // This waits.
    put(&large, "after", 1).unwrap();
    put(&large, "larger", 40).unwrap();
    let newest = large.newest();
    large.close().unwrap();
    small.close().unwrap();
    vfs.journal().stop().unwrap();
    assert_eq!(vfs.journal().is_durable(newest), Ok(true));
    drop((large, small));
    let disk = slow.disk.after_crash(Survival::Nothing);
    drop(vfs);
    assert_eq!(found(&disk, [1, 2]), [81, 3]);
}

/// A simulated disk on which the writes of pages beside the journal may take as long as a test wants.
#[derive(Clone)]
struct SlowDisk {
    disk: SimDisk,
    state: Arc<(Mutex<Slow>, Condvar)>,
}

#[derive(Default)]
struct Slow {
    is_slow: bool,
    waits: bool,
}

impl Default for SlowDisk {
    fn default() -> SlowDisk {
        SlowDisk {
            disk: vat::new_disk(),
            state: Arc::default(),
        }
    }
}

impl SlowDisk {
    fn set_slow(&self, is_slow: bool) {
        self.state.0.lock().unwrap().is_slow = is_slow;
        self.state.1.notify_all();
    }

    fn wait_until_slow(&self) {
        let (state, changed) = &*self.state;
        let state = state.lock().unwrap();
        drop(changed.wait_while(state, |slow| !slow.waits).unwrap());
    }

    fn wait(&self) {
        let (state, changed) = &*self.state;
        let mut state = state.lock().unwrap();
        state.waits = true;
        changed.notify_all();
        let mut state = changed.wait_while(state, |slow| slow.is_slow).unwrap();
        state.waits = false;
    }
}

impl Disk for SlowDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, open)?;
        if is_beside(path) {
            self.wait();
        }
        Ok(file)
    }

    fn scratch(&self, folder: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.scratch(folder)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.disk.create_folder(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.disk.sync_folder(folder)
    }

    fn sync_all(&self, folders: &BTreeSet<PathBuf>) -> io::Result<()> {
        self.disk.sync_all(folders)
    }
}
