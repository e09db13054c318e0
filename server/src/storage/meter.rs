//! The memory that SQL of one call takes, and its time inside a single instruction of SQLite's.
//!
//! SQLite looks at a limit between instructions only, and knows no limit of memory for one connection.
//! But whatever takes long or much asks for memory now and then, and all memory comes from the
//! allocator that is set here. So it counts, for the statement that runs on the thread, and refuses
//! what is over a limit: SQLite then ends the statement as if there were no memory. What asks for none
//! while it works is a function of ours, and calls [`spend`].

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::time::Instant;

use rusqlite::ffi;

/// The work between two looks at the clock, in bytes that were allocated or compared.
const LOOK: u64 = 256 << 10;

/// The work that an allocation counts for beside its size.
const ALLOCATION: u64 = 1 << 10;

/// What a statement may take beyond its limit of memory before an allocation fails, in bytes. In
/// between the next look of the progress handler ends it, which undoes less.
const SLACK: i64 = 32 << 20;

/// Why a statement was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It ran past its deadline.
    Time,
    /// The SQL of the object takes more memory than it may.
    Memory,
    /// A function got arguments that are too large.
    Arguments {
        /// The thing that is limited, with its unit.
        what: &'static str,
        limit: u64,
        actual: u64,
    },
}

/// What a statement may take.
#[derive(Clone, Copy)]
pub(super) struct Allowance {
    /// Bytes of memory.
    pub(super) memory: i64,
    /// When it is late, in nanoseconds of [`clock`].
    pub(super) deadline: u64,
    /// When an allocation fails because it is late: what that undoes is more than what the progress
    /// handler does, which therefore is asked before.
    pub(super) patience: u64,
}

struct Meter {
    /// Whether user SQL is running.
    on: Cell<bool>,
    used: Cell<i64>,
    allowance: Cell<Allowance>,
    /// Work since the last look at the clock.
    work: Cell<u64>,
    refusal: Cell<Option<Refusal>>,
    /// Looks until the deadline has passed, whatever the clock says.
    #[cfg(test)]
    looks: Cell<Option<u64>>,
    /// The work of functions of ours, ever.
    #[cfg(test)]
    spent: Cell<u64>,
}

thread_local! {
    static METER: Meter = const {
        Meter {
            on: Cell::new(false),
            used: Cell::new(0),
            allowance: Cell::new(Allowance { memory: 0, deadline: 0, patience: 0 }),
            work: Cell::new(0),
            refusal: Cell::new(None),
            #[cfg(test)]
            looks: Cell::new(None),
            #[cfg(test)]
            spent: Cell::new(0),
        }
    };
}

/// Nanoseconds since some moment.
pub(super) fn clock() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Runs user SQL that has taken `used` bytes already: what it takes now, and why it was stopped, if it
/// was.
pub(super) fn measured<T>(
    used: i64,
    allowance: Allowance,
    run: impl FnOnce() -> T,
) -> (T, i64, Option<Refusal>) {
    /// Ends the measuring also if `run` panics.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            METER.with(|meter| meter.on.set(false));
        }
    }
    METER.with(|meter| {
        debug_assert!(!meter.on.get(), "one statement runs at a time");
        meter.used.set(used);
        meter.allowance.set(allowance);
        meter.work.set(0);
        meter.refusal.set(None);
        meter.on.set(true);
    });
    let result = {
        let _end = End;
        run()
    };
    METER.with(|meter| (result, meter.used.get(), meter.refusal.take()))
}

/// Whether the statement that runs is to be stopped, asked between two instructions.
pub(super) fn is_over() -> bool {
    METER.with(|meter| meter.on.get() && meter.is_over())
}

/// Counts the work of a function of ours, in bytes. `false`: the deadline has passed, and the function
/// is to end with [`ffi::SQLITE_INTERRUPT`].
#[must_use]
pub(super) fn spend(bytes: usize) -> bool {
    METER.with(|meter| {
        #[cfg(test)]
        meter.spent.set(meter.spent.get() + bytes as u64);
        if !meter.on.get() || !meter.work(bytes as u64) {
            return true;
        }
        !meter.is_late_by(meter.allowance.get().deadline)
    })
}

/// Notes that a function is about to fail because its arguments are too large.
pub(super) fn refuse(what: &'static str, limit: u64, actual: u64) {
    let refusal = Refusal::Arguments {
        what,
        limit,
        actual,
    };
    METER.with(|meter| meter.refusal.set(Some(refusal)));
}

/// The deadline of the SQL of this thread has passed after so many looks at it.
#[cfg(test)]
pub(super) fn expire_after(looks: Option<u64>) {
    METER.with(|meter| meter.looks.set(looks));
}

/// The work that functions of ours have counted on this thread, in bytes.
#[cfg(test)]
pub(super) fn spent() -> u64 {
    METER.with(|meter| meter.spent.get())
}

impl Meter {
    /// Counts work. Whether it is time to look at the clock.
    fn work(&self, work: u64) -> bool {
        let work = self.work.get() + work;
        self.work.set(if work >= LOOK { 0 } else { work });
        work >= LOOK
    }

    fn is_late_by(&self, deadline: u64) -> bool {
        #[cfg(test)]
        if let Some(looks) = self.looks.get() {
            self.looks.set(Some(looks.saturating_sub(1)));
            if looks == 0 {
                self.refusal.set(Some(Refusal::Time));
                return true;
            }
        }
        let late = clock() >= deadline;
        if late {
            self.refusal.set(Some(Refusal::Time));
        }
        late
    }

    fn is_over(&self) -> bool {
        let allowance = self.allowance.get();
        if self.used.get() > allowance.memory {
            self.refusal.set(Some(Refusal::Memory));
            return true;
        }
        self.work.set(0);
        self.is_late_by(allowance.deadline)
    }

    /// Whether the statement may take so many bytes more.
    fn admits(&self, bytes: i64) -> bool {
        let allowance = self.allowance.get();
        if self.used.get() + bytes > allowance.memory + SLACK {
            self.refusal.set(Some(Refusal::Memory));
            return false;
        }
        let work = ALLOCATION + u64::try_from(bytes).unwrap_or(0);
        !self.work(work) || !self.is_late_by(allowance.patience)
    }

    fn count(&self, bytes: i64) {
        self.used.set(self.used.get() + bytes);
    }
}

/// SQLite's own allocator.
struct Inner {
    malloc: unsafe extern "C" fn(c_int) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    realloc: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
    size: unsafe extern "C" fn(*mut c_void) -> c_int,
}

static INNER: OnceLock<Inner> = OnceLock::new();

fn inner() -> &'static Inner {
    INNER.get().expect("it is set before SQLite may allocate")
}

/// Has SQLite allocate by way of this. Only before SQLite is used for anything; an error means that
/// it was, and that nothing is measured.
pub(super) fn install() -> Result<(), c_int> {
    let mut methods = ffi::sqlite3_mem_methods {
        xMalloc: None,
        xFree: None,
        xRealloc: None,
        xSize: None,
        xRoundup: None,
        xInit: None,
        xShutdown: None,
        pAppData: std::ptr::null_mut(),
    };
    let check = |code| match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(code),
    };
    // SAFETY: the option takes a pointer to such a structure, which it fills with the default methods.
    check(unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods) })?;
    let (Some(malloc), Some(free), Some(realloc), Some(size)) = (
        methods.xMalloc,
        methods.xFree,
        methods.xRealloc,
        methods.xSize,
    ) else {
        return Err(ffi::SQLITE_MISUSE);
    };
    INNER.get_or_init(|| Inner {
        malloc,
        free,
        realloc,
        size,
    });
    methods.xMalloc = Some(counted_malloc);
    methods.xFree = Some(counted_free);
    methods.xRealloc = Some(counted_realloc);
    // SAFETY: the option copies the structure. Ours answer what SQLite's own do, or null.
    check(unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut methods) })
}

/// # Safety
///
/// The allocation is SQLite's, and not null.
unsafe fn size(allocation: *mut c_void) -> i64 {
    // SAFETY: the caller vouches for it.
    unsafe { (inner().size)(allocation) }.into()
}

unsafe extern "C" fn counted_malloc(bytes: c_int) -> *mut c_void {
    METER.with(|meter| {
        if meter.on.get() && !meter.admits(bytes.into()) {
            return std::ptr::null_mut();
        }
        // SAFETY: SQLite asks for it.
        let allocation = unsafe { (inner().malloc)(bytes) };
        if meter.on.get() && !allocation.is_null() {
            // SAFETY: it was just allocated.
            meter.count(unsafe { size(allocation) });
        }
        allocation
    })
}

unsafe extern "C" fn counted_free(allocation: *mut c_void) {
    METER.with(|meter| {
        if meter.on.get() && !allocation.is_null() {
            // SAFETY: SQLite has it from here.
            meter.count(-unsafe { size(allocation) });
        }
    });
    // SAFETY: as above.
    unsafe { (inner().free)(allocation) }
}

unsafe extern "C" fn counted_realloc(allocation: *mut c_void, bytes: c_int) -> *mut c_void {
    METER.with(|meter| {
        if !meter.on.get() {
            // SAFETY: SQLite asks for it, with what it has from here.
            return unsafe { (inner().realloc)(allocation, bytes) };
        }
        // SAFETY: as above; SQLite never asks this for a null pointer.
        let before = unsafe { size(allocation) };
        if !meter.admits((i64::from(bytes) - before).max(0)) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        let moved = unsafe { (inner().realloc)(allocation, bytes) };
        if !moved.is_null() {
            // SAFETY: it was just allocated.
            meter.count(unsafe { size(moved) } - before);
        }
        moved
    })
}
