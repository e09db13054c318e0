//! SQLite's file system on the journal's databases: the file of a database, its write-ahead log in
//! memory, and files without a name. See <https://www.sqlite.org/c3ref/vfs.html>.
//!
//! SQLite is told the name of a [`DatabaseId`] and not a path. It locks nothing: a database has one
//! connection, and other processes are kept away by the lock of the data folder and of the file.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    io, mem, ptr,
    rc::Rc,
    slice,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rusqlite::ffi;

use super::configure_process;
use crate::{
    folder::DatabaseId,
    journal::{Database, Journal, Scratch},
};

/// What SQLite calls the log of a database.
const LOG_SUFFIX: &str = "-wal";

/// The file system of one vat, registered with SQLite until it is dropped.
pub struct Vfs {
    pub(super) name: CString,
    pub(super) journal: Journal,
    /// Made by `Box`, and given back in `drop`.
    raw: *mut ffi::sqlite3_vfs,
}

impl Vfs {
    /// Registers a file system for the databases of `journal`.
    pub fn register(journal: Journal) -> Rc<Vfs> {
        configure_process();
        // SQLite tells file systems apart by their names.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = CString::new(format!("vatwerk-{number}")).expect("there is no zero in it");
        // SAFETY: asking for the default file system initializes SQLite and has no other conditions.
        let base = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        let shared = Box::new(Shared {
            journal: journal.clone(),
            base,
        });
        let raw = Box::into_raw(Box::new(ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: size_of::<File>() as c_int,
            mxPathname: 256,
            pNext: ptr::null_mut(),
            zName: name.as_ptr(),
            pAppData: Box::into_raw(shared).cast(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: None,
            xCurrentTimeInt64: Some(current_time_ms),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        }));
        // SAFETY: `raw` and what it points to live until it is unregistered. It does not become the
        // default. It cannot fail but for want of memory in initializing SQLite, and then no database
        // opens.
        unsafe { ffi::sqlite3_vfs_register(raw, 0) };
        Rc::new(Vfs { name, journal, raw })
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
}

impl Drop for Vfs {
    fn drop(&mut self) {
        // SAFETY: every connection that uses it holds an `Rc` of it, so there is none. Both boxes
        // were made in `register`, and nobody else frees them.
        unsafe {
            ffi::sqlite3_vfs_unregister(self.raw);
            let raw = Box::from_raw(self.raw);
            drop(Box::from_raw(raw.pAppData.cast::<Shared>()));
        }
    }
}

/// What the functions of a file system share.
struct Shared {
    journal: Journal,
    /// SQLite's own, for the time and for randomness.
    base: *mut ffi::sqlite3_vfs,
}

/// A file as SQLite sees it.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    journal: mem::ManuallyDrop<Journal>,
    kind: mem::ManuallyDrop<Kind>,
}

enum Kind {
    Main(Arc<Database>),
    Log(Arc<Database>),
    Scratch(Scratch),
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(lock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: None,
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

impl Kind {
    fn read(&self, journal: &Journal, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Kind::Main(database) => database.read_file(journal.databases(), buffer, offset),
            Kind::Log(database) => database.read_log(buffer, offset),
            Kind::Scratch(scratch) => scratch.read(buffer, offset),
        }
    }

    fn write(&mut self, journal: &Journal, bytes: &[u8], offset: u64) -> io::Result<()> {
        let databases = journal.databases();
        match self {
            Kind::Main(database) => database.write_file(databases, bytes, offset),
            Kind::Log(database) => database.write_log(databases, bytes, offset),
            Kind::Scratch(scratch) => scratch.write(bytes, offset, || databases.scratch()),
        }
    }

    fn truncate(&mut self, journal: &Journal, bytes: u64) -> io::Result<()> {
        match self {
            Kind::Main(database) => database.truncate_file(journal.databases(), bytes),
            Kind::Log(database) => {
                // SQLite only ever empties it.
                if bytes == 0 {
                    database.truncate_log();
                }
                Ok(())
            }
            Kind::Scratch(scratch) => scratch.truncate(bytes),
        }
    }

    fn bytes(&self, journal: &Journal) -> io::Result<u64> {
        match self {
            Kind::Main(database) => database.file_bytes(journal.databases()),
            Kind::Log(database) => Ok(database.log_bytes()),
            Kind::Scratch(scratch) => scratch.bytes(),
        }
    }
}

/// What SQLite is told of an error.
fn code(error: &io::Error, otherwise: c_int) -> c_int {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ffi::SQLITE_FULL,
        _ => otherwise,
    }
}

/// The database that a name is of, and whether it is its log.
///
/// # Safety
///
/// `name` is null or a string that ends with a zero.
unsafe fn parse_name(name: *const c_char) -> Option<(DatabaseId, bool)> {
    if name.is_null() {
        return None;
    }
    // SAFETY: promised by the caller.
    let name = unsafe { CStr::from_ptr(name) }.to_str().ok()?;
    let database = name.strip_suffix(LOG_SUFFIX);
    let id = database.unwrap_or(name).parse().ok()?;
    Some((id, database.is_some()))
}

/// # Safety
///
/// `vfs` was made by [`Vfs::register`] and is not dropped meanwhile.
unsafe fn shared<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a Shared {
    // SAFETY: promised by the caller.
    unsafe { &*(*vfs).pAppData.cast::<Shared>() }
}

/// # Safety
///
/// `file` was opened by [`open`] and not closed, and nobody else uses it: it belongs to a connection,
/// which one thread uses at a time.
unsafe fn file<'a>(file: *mut ffi::sqlite3_file) -> &'a mut File {
    // SAFETY: promised by the caller; `szOsFile` makes SQLite allocate a `File`.
    unsafe { &mut *file.cast::<File>() }
}

// SQLite calls all that follows, with what the registered file system and `METHODS` promise it. A
// panic in one of them ends the process, as it must: SQLite cannot be unwound.

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    out: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes the file system it was given, a name that is null or ends with a zero,
    // room for a `File`, and a pointer that may be null.
    unsafe {
        // Says that it is not open, should it stay so.
        (*out).pMethods = ptr::null();
        let shared = shared(vfs);
        let find = || {
            let (id, is_log) = parse_name(name)?;
            Some((shared.journal.databases().find(id)?, is_log))
        };
        let kind = if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
            find()
                .filter(|(_, is_log)| !is_log)
                .map(|(database, _)| Kind::Main(database))
        } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
            find()
                .filter(|(_, is_log)| *is_log)
                .map(|(database, _)| Kind::Log(database))
        } else if flags & ffi::SQLITE_OPEN_MAIN_JOURNAL != 0 {
            // A database in WAL mode has none.
            None
        } else {
            Some(Kind::Scratch(Scratch::default()))
        };
        let Some(kind) = kind else {
            return ffi::SQLITE_CANTOPEN;
        };
        out.cast::<File>().write(File {
            base: ffi::sqlite3_file { pMethods: &METHODS },
            journal: mem::ManuallyDrop::new(shared.journal.clone()),
            kind: mem::ManuallyDrop::new(kind),
        });
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(raw: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once, and does not use it afterwards.
    unsafe {
        let file = file(raw);
        mem::ManuallyDrop::drop(&mut file.kind);
        mem::ManuallyDrop::drop(&mut file.journal);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    raw: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes an open file and a buffer of that size.
    let (file, buffer) = unsafe {
        (
            file(raw),
            slice::from_raw_parts_mut(buffer.cast::<u8>(), amount as usize),
        )
    };
    match file.kind.read(&file.journal, buffer, offset as u64) {
        Ok(read) if read == buffer.len() => ffi::SQLITE_OK,
        Ok(read) => {
            buffer[read..].fill(0);
            ffi::SQLITE_IOERR_SHORT_READ
        }
        Err(error) => code(&error, ffi::SQLITE_IOERR_READ),
    }
}

unsafe extern "C" fn write(
    raw: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes an open file and that many bytes.
    let (file, bytes) = unsafe {
        (
            file(raw),
            slice::from_raw_parts(bytes.cast::<u8>(), amount as usize),
        )
    };
    let File { journal, kind, .. } = file;
    answer(
        kind.write(journal, bytes, offset as u64),
        ffi::SQLITE_IOERR_WRITE,
    )
}

unsafe extern "C" fn truncate(raw: *mut ffi::sqlite3_file, bytes: ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes an open file.
    let File { journal, kind, .. } = unsafe { file(raw) };
    answer(
        kind.truncate(journal, bytes as u64),
        ffi::SQLITE_IOERR_TRUNCATE,
    )
}

/// The journal is what is synced.
unsafe extern "C" fn sync(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(
    raw: *mut ffi::sqlite3_file,
    bytes: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes an open file and room for the answer.
    let (file, answer_to) = unsafe { (file(raw), &mut *bytes) };
    let size = file
        .kind
        .bytes(&file.journal)
        .map(|bytes| *answer_to = bytes as i64);
    answer(size, ffi::SQLITE_IOERR_FSTAT)
}

fn answer(done: io::Result<()>, otherwise: c_int) -> c_int {
    match done {
        Ok(()) => ffi::SQLITE_OK,
        Err(error) => code(&error, otherwise),
    }
}

unsafe extern "C" fn lock(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_: *mut ffi::sqlite3_file, held: *mut c_int) -> c_int {
    // SAFETY: SQLite passes room for the answer.
    unsafe { *held = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    // So that SQLite does not pad the log.
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, _: c_int) -> c_int {
    // SAFETY: SQLite passes the file system it was given and a name that ends with a zero.
    let (shared, name) = unsafe { (shared(vfs), parse_name(name)) };
    if let Some((id, true)) = name
        && let Some(database) = shared.journal.databases().find(id)
    {
        database.truncate_log();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    _: c_int,
    answer: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes the file system it was given, a name that ends with a zero, and room for
    // the answer.
    unsafe {
        let found = parse_name(name).and_then(|(id, is_log)| {
            let database = shared(vfs).journal.databases().find(id)?;
            Some(!is_log || database.log_bytes() > 0)
        });
        *answer = found.unwrap_or(false).into();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes a name that ends with a zero, and that much room.
    unsafe {
        let name = CStr::from_ptr(name).to_bytes_with_nul();
        if name.len() > room as usize {
            return ffi::SQLITE_CANTOPEN;
        }
        ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len());
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(
    vfs: *mut ffi::sqlite3_vfs,
    amount: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: what SQLite passes is passed on to its own file system.
    unsafe {
        let base = shared(vfs).base;
        (*base)
            .xRandomness
            .map_or(0, |randomness| randomness(base, amount, out))
    }
}

unsafe extern "C" fn sleep(vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    // SAFETY: what SQLite passes is passed on to its own file system.
    unsafe {
        let base = shared(vfs).base;
        (*base).xSleep.map_or(0, |sleep| sleep(base, microseconds))
    }
}

unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, days: *mut f64) -> c_int {
    // SAFETY: what SQLite passes is passed on to its own file system.
    unsafe {
        let base = shared(vfs).base;
        (*base)
            .xCurrentTime
            .map_or(ffi::SQLITE_ERROR, |time| time(base, days))
    }
}

unsafe extern "C" fn current_time_ms(
    vfs: *mut ffi::sqlite3_vfs,
    time: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: what SQLite passes is passed on to its own file system.
    unsafe {
        let base = shared(vfs).base;
        (*base)
            .xCurrentTimeInt64
            .map_or(ffi::SQLITE_ERROR, |now| now(base, time))
    }
}
