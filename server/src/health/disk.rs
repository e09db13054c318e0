//! The thread that looks at the disk: whether the data folder is the one that the vat has opened, whether
//! there is room, and whether commits get on.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        MutexGuard,
        atomic::Ordering::Relaxed,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::fs::statvfs;

use super::{Health, Problem, service::thread_or_abort};

/// How often the disk is looked at. For so long a vat may go on in a folder that was removed.
const LOOK: Duration = Duration::from_secs(1);

/// How long a commit may wait for the disk, or the disk for a look at it to end, before the vat is not
/// ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// The journal at one moment.
#[derive(Clone, Debug, Default)]
pub struct Commits {
    /// Why no commit is taken in, if so.
    pub down: Option<String>,
    /// The position of the newest commit that is durable.
    pub durable: u64,
    /// Whether a newer one waits for the disk.
    pub are_waiting: bool,
}

/// The parts of the disk that the vat depends on.
pub struct Watched {
    folders: Vec<Folder>,
    least_free: u64,
    commits: Box<dyn Fn() -> Commits + Send>,
}

/// A folder as the vat has opened it.
struct Folder {
    path: PathBuf,
    identity: (u64, u64),
}

/// What the last look has found.
#[derive(Default)]
pub(super) struct Found {
    problems: Vec<Problem>,
    /// The room that is left, in bytes.
    pub free: Option<u64>,
    pub is_down: bool,
}

impl Watched {
    /// The folders at `paths` as they are now, in whose file systems at least `least_free` bytes are to be
    /// free; 0 is no limit. `commits` is asked on another thread.
    pub fn new(
        paths: impl IntoIterator<Item = PathBuf>,
        least_free: u64,
        commits: impl Fn() -> Commits + Send + 'static,
    ) -> io::Result<Watched> {
        let open = |path: PathBuf| {
            let identity = identity(&path)?;
            Ok(Folder { path, identity })
        };
        Ok(Watched {
            folders: paths.into_iter().map(open).collect::<io::Result<_>>()?,
            least_free,
            commits: Box::new(commits),
        })
    }
}

/// The device and the inode of a folder, which no other folder has as long as this is there.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// The room in the file system of a folder that is left to this user, in bytes.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// A thread that looks at the disk once a second, and logs what becomes of it. Ends when this is dropped.
pub struct DiskWatch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DiskWatch {
    /// Looks once, and starts the thread.
    pub fn start(health: Health, watched: Watched) -> io::Result<DiskWatch> {
        let (stop, stopped) = mpsc::channel::<()>();
        let mut eye = Eye::new(watched);
        eye.look(&health, Instant::now());
        let work = move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                eye.look(&health, Instant::now());
            }
        };
        let thread = thread::Builder::new()
            .name("disk".into())
            .spawn(move || thread_or_abort("disk", work))?;
        Ok(DiskWatch {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        self.stop.take();
        // A disk that does not answer does not hold up the end.
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}

/// What was seen before.
struct Eye {
    watched: Watched,
    is_gone: bool,
    is_full: bool,
    /// The newest durable commit, and since when it is while others wait.
    durable: (u64, Instant),
}

impl Eye {
    fn new(watched: Watched) -> Eye {
        let durable = ((watched.commits)().durable, Instant::now());
        Eye {
            watched,
            is_gone: false,
            is_full: false,
            durable,
        }
    }

    /// Looks, tells the health what there is, and the log what is new.
    fn look(&mut self, health: &Health, now: Instant) {
        health.0.looking.store(health.0.now(), Relaxed);
        let mut problems = Vec::new();
        let gone = self.gone();
        if let Some(problem) = gone {
            if self.is_gone {
                health.lose_folder();
            } else {
                tracing::error!(
                    %problem,
                    "the data folder is not the one that the vat has opened: what is acknowledged from now on \
                     may be lost with it. The command `serve` ends the process at once; stop all vats before \
                     you move or replace their folders"
                );
            }
            self.is_gone = true;
            problems.push(problem);
        } else {
            self.is_gone = false;
        }
        let free = self.free();
        let full = free.as_ref().and_then(|(path, bytes)| {
            (*bytes < self.watched.least_free).then(|| Problem::Full {
                path: path.clone(),
                free: *bytes,
                least: self.watched.least_free,
            })
        });
        if self.is_full != full.is_some() {
            self.is_full = full.is_some();
            match &full {
                Some(problem) => tracing::warn!(%problem, "the disk is almost full"),
                None => tracing::info!("there is room on the disk again"),
            }
        }
        problems.extend(full);
        let commits = (self.watched.commits)();
        let is_down = commits.down.is_some();
        problems.extend(commits.down.map(Problem::JournalDown));
        if commits.durable != self.durable.0 || !commits.are_waiting || is_down {
            self.durable = (commits.durable, now);
        }
        let lasting = now.saturating_duration_since(self.durable.1);
        if lasting > PATIENCE {
            problems.push(Problem::CommitsWait { lasting });
        }
        *health.found() = Found {
            problems,
            free: free.map(|(_, bytes)| bytes),
            is_down,
        };
        health.0.looking.store(0, Relaxed);
    }

    /// The first folder that is not there, or is another.
    fn gone(&self) -> Option<Problem> {
        self.watched.folders.iter().find_map(|folder| {
            let path = folder.path.clone();
            match identity(&folder.path) {
                Ok(found) if found == folder.identity => None,
                Ok(_) => Some(Problem::Replaced(path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Problem::Gone(path)),
                // It may be there: a file system that fails is seen by commits.
                Err(_) => None,
            }
        })
    }

    /// The folder with the least room, and how much it has.
    fn free(&self) -> Option<(PathBuf, u64)> {
        let folders = self.watched.folders.iter();
        let free = folders.filter_map(|folder| {
            let free = free_bytes(&folder.path).ok()?;
            Some((folder.path.clone(), free))
        });
        free.min_by_key(|(_, bytes)| *bytes)
    }
}

impl Health {
    /// Every reason why the disk keeps the vat from being ready.
    pub(super) fn disk_problems(&self) -> Vec<Problem> {
        let mut problems = self.found().problems.clone();
        let looking = self.0.looking.load(Relaxed);
        if looking != 0 {
            let lasting = Duration::from_nanos(self.0.now().saturating_sub(looking));
            if lasting > PATIENCE {
                problems.push(Problem::DiskSilent { lasting });
            }
        }
        problems
    }

    /// The room that is left on the disk, in bytes; `None` where nobody looks.
    pub fn free_bytes(&self) -> Option<u64> {
        self.found().free
    }

    /// Whether the journal takes no commits.
    pub fn is_journal_down(&self) -> bool {
        self.found().is_down
    }

    /// Waits until the data folder has been removed or replaced under the vat, and stays so for a second.
    /// What is acknowledged after that may be lost: a program should end at once, without stopping the vat,
    /// which would write to whatever is there now.
    pub async fn folder_lost(&self) {
        let mut lost = self.0.folder_lost.subscribe();
        // The sender is there as long as this.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    fn lose_folder(&self) {
        self.0.folder_lost.send_replace(true);
    }

    pub(super) fn found(&self) -> MutexGuard<'_, Found> {
        let found = self.0.found.lock();
        found.unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tempfile::tempdir;

    use super::*;
    use crate::health::{Limits, Names};

    /// Looks at folders, and at commits that a test sets.
    fn eye(paths: &[&Path], least_free: u64) -> (Eye, Arc<Mutex<Commits>>, Health) {
        let commits = Arc::<Mutex<Commits>>::default();
        let told = commits.clone();
        let paths = paths.iter().map(|path| path.to_path_buf());
        let commits_now = move || told.lock().unwrap().clone();
        let watched = Watched::new(paths, least_free, commits_now).unwrap();
        let health = Health::new(Limits::default(), Names::default());
        (Eye::new(watched), commits, health)
    }

    fn problems(eye: &mut Eye, health: &Health, now: Instant) -> Vec<String> {
        eye.look(health, now);
        let problems = health.problems();
        problems.iter().map(ToString::to_string).collect()
    }

    fn is_lost(health: &Health) -> bool {
        futures::FutureExt::now_or_never(health.folder_lost()).is_some()
    }

    #[test]
    fn a_folder_that_is_removed_or_replaced_is_lost_at_the_second_look() {
        for is_replaced in [true, false] {
            let folder = tempdir().unwrap();
            let [data, inside] = ["data", "data/journal"].map(|path| folder.path().join(path));
            fs::create_dir_all(&inside).unwrap();
            let (mut eye, _, health) = eye(&[&data, &inside], 0);
            let now = Instant::now();
            assert_eq!(problems(&mut eye, &health, now), [""; 0]);
            fs::rename(&data, folder.path().join("aside")).unwrap();
            if is_replaced {
                fs::create_dir_all(&inside).unwrap();
            }
            let found = problems(&mut eye, &health, now);
            let told = ["was removed", "was replaced"][usize::from(is_replaced)];
            assert!(
                found[0].starts_with("folder ") && found[0].ends_with(told),
                "{found:?}"
            );
            assert!(!is_lost(&health));
            problems(&mut eye, &health, now);
            assert!(is_lost(&health));
        }
        // One that is put back in between is not.
        let folder = tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let (mut eye, _, health) = eye(&[&data], 0);
        for _ in 0..3 {
            fs::rename(&data, folder.path().join("aside")).unwrap();
            assert_eq!(problems(&mut eye, &health, Instant::now()).len(), 1);
            fs::rename(folder.path().join("aside"), &data).unwrap();
            assert_eq!(problems(&mut eye, &health, Instant::now()).len(), 0);
        }
        assert!(!is_lost(&health));
    }

    #[test]
    fn room_is_told_and_too_little_is_a_problem() {
        let folder = tempdir().unwrap();
        for (least, expected) in [(0, 0), (1, 0), (u64::MAX, 1)] {
            let (mut eye, _, health) = eye(&[folder.path()], least);
            let found = problems(&mut eye, &health, Instant::now());
            assert_eq!(found.len(), expected, "{found:?}");
            assert!(found.iter().all(|it| it.contains("`limits.free_bytes`")));
            assert!(health.free_bytes().unwrap() > 0);
        }
    }

    #[test]
    fn commits_that_are_refused_or_do_not_get_on_are_a_problem() {
        let folder = tempdir().unwrap();
        let (mut eye, commits, health) = eye(&[folder.path()], 0);
        let now = Instant::now();
        let set = |down: Option<&str>, durable, are_waiting| {
            *commits.lock().unwrap() = Commits {
                down: down.map(str::to_owned),
                durable,
                are_waiting,
            };
        };
        set(Some("no room"), 3, false);
        let found = problems(&mut eye, &health, now);
        assert_eq!(found, ["the journal takes no commits: no room"]);
        assert!(health.is_journal_down());
        // Those that get on, however slowly, and a journal with nothing to do.
        for (durable, are_waiting, seconds) in [
            (3, false, 0),
            (3, false, 59),
            (3, true, 60),
            (4, true, 65),
            (5, true, 70),
        ] {
            set(None, durable, are_waiting);
            let later = now + Duration::from_secs(seconds);
            assert_eq!(problems(&mut eye, &health, later), [""; 0], "{seconds}");
        }
        let later = now + Duration::from_secs(81);
        let found = problems(&mut eye, &health, later);
        assert_eq!(found, ["commits wait for the disk for 11.0 s"]);
        set(None, 9, false);
        assert_eq!(problems(&mut eye, &health, later), [""; 0]);
    }

    #[test]
    fn a_disk_that_does_not_answer_is_a_problem() {
        let folder = tempdir().unwrap();
        let (mut eye, _, health) = eye(&[folder.path()], 0);
        assert_eq!(problems(&mut eye, &health, Instant::now()), [""; 0]);
        // A look that began when the vat did, and the vat runs for a minute.
        health.0.looking.store(1, Relaxed);
        assert_eq!(health.problems(), []);
        let mut health = health;
        let inner = Arc::get_mut(&mut health.0).unwrap();
        inner.start = inner.start.checked_sub(Duration::from_secs(60)).unwrap();
        let found = health.problems();
        assert!(
            matches!(found[..], [Problem::DiskSilent { .. }]),
            "{found:?}"
        );
    }
}
