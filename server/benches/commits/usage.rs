//! What a process has used so far, as the kernel counts it.

use std::{
    collections::BTreeMap,
    fs,
    ops::{AddAssign, Sub},
    path::Path,
    time::Duration,
};

/// What a process has used.
#[derive(Clone, Default)]
pub struct Usage {
    pub written_bytes: u64,
    /// Also of threads that have ended.
    pub cpu: Cpu,
    /// By the name of the thread; several may share one.
    pub threads: BTreeMap<String, Cpu>,
}

/// CPU time, to the kernel's tick of mostly 10 ms.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub user: Duration,
    pub system: Duration,
}

impl Cpu {
    pub fn total(self) -> Duration {
        self.user + self.system
    }
}

impl AddAssign for Cpu {
    fn add_assign(&mut self, other: Cpu) {
        self.user += other.user;
        self.system += other.system;
    }
}

impl Sub for Cpu {
    type Output = Cpu;

    /// The kernel's split in user and system time is an estimate, of which a part may shrink.
    fn sub(self, other: Cpu) -> Cpu {
        Cpu {
            user: self.user.saturating_sub(other.user),
            system: self.system.saturating_sub(other.system),
        }
    }
}

impl Usage {
    /// Of the process of that id.
    pub fn of(process: u32) -> Usage {
        let folder = Path::new("/proc").join(process.to_string());
        let io = fs::read_to_string(folder.join("io")).expect("a process of ours");
        let written = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "))
            .expect("a kernel that counts bytes");
        let (_, cpu) = stat(&folder).expect("a process of ours");
        let mut threads: BTreeMap<String, Cpu> = BTreeMap::new();
        for thread in fs::read_dir(folder.join("task")).expect("a process of ours") {
            // A thread may end at any moment.
            if let Some((name, cpu)) = thread.ok().and_then(|thread| stat(&thread.path())) {
                *threads.entry(name).or_default() += cpu;
            }
        }
        Usage {
            written_bytes: written.parse().expect("a number"),
            cpu,
            threads,
        }
    }

    /// What has been used since then.
    pub fn since(&self, earlier: &Usage) -> Usage {
        let before = |name| earlier.threads.get(name).copied().unwrap_or_default();
        let threads = self.threads.iter();
        Usage {
            written_bytes: self.written_bytes - earlier.written_bytes,
            cpu: self.cpu - earlier.cpu,
            threads: threads
                .map(|(name, cpu)| (name.clone(), *cpu - before(name)))
                .collect(),
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.written_bytes += other.written_bytes;
        self.cpu += other.cpu;
        for (name, cpu) in other.threads {
            *self.threads.entry(name).or_default() += cpu;
        }
    }
}

/// Name and CPU time of the process or thread whose folder that is.
fn stat(folder: &Path) -> Option<(String, Cpu)> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // The name is in brackets, and may have brackets and blanks in it.
    let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
    // `utime` and `stime` are the 14th and the 15th field of all, of which `fields` has the third
    // and what follows.
    let mut times = fields.split_whitespace().skip(11).map(ticks);
    let cpu = Cpu {
        user: times.next()?,
        system: times.next()?,
    };
    Some((name.to_owned(), cpu))
}

fn ticks(field: &str) -> Duration {
    // SAFETY: it only reads a number.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let ticks: f64 = field.parse().expect("a number");
    Duration::from_secs_f64(ticks / per_second as f64)
}
